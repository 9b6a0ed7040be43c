"""The second stage: the VLLM's hidden states become edit embeddings."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..flexedit.systems import system
from .runtime.interrupt import cancellable
from .runtime.options import checked
from .runtime.parts import on_cpu, on_device
from .runtime.types import CATEGORY, Embeds, Intent, Qformer, schema


class QFormerEmbed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditQFormerEmbed",
            display_name="FlexEdit Q-Former Embed",
            category=CATEGORY,
            description="Distils what the vision language model understood into the edit "
            "embeddings that the diffusion model follows.",
            inputs=[
                Qformer.Input("qformer", tooltip="From the FlexEdit Loader that gave the VLLM."),
                Intent.Input(
                    "intent", tooltip="From FlexEdit Mask Interpreter; task edit or segment."
                ),
            ],
            outputs=[
                Embeds.Output(
                    "embeds", display_name="embeds", tooltip="The request and its edit embeddings."
                )
            ],
        )

    @classmethod
    @checked
    @cancellable
    def execute(cls, qformer, intent) -> io.NodeOutput:
        reading = on_device(intent.reading, qformer.device)
        embeds = system.embed(qformer.use(), replace(intent, reading=reading))
        text, null = on_cpu(embeds.text), on_cpu(embeds.null)
        return io.NodeOutput(system.Embeds(intent, text, null))
