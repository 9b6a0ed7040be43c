"""From a terse instruction to an expressive one, as MGIE's VLLM or any stock one says it."""

from __future__ import annotations

from comfy_api.latest import io

from ..flexedit.models.vllm import expressive
from ..flexedit.request import EditRequest
from .runtime.interrupt import cancellable, step_callback
from .runtime.options import checked
from .runtime.types import CATEGORY, Vllm, schema, to_bchw


class ExpressiveInstruction(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditExpressiveInstruction",
            display_name="FlexEdit Expressive Instruction",
            category=CATEGORY,
            description="Says a short instruction at length, after a look at the picture: “make "
            "it winter” becomes what winter looks like there. A text for any graph's prompt, of at "
            f"most {expressive.MAX_WORDS} words a picture.",
            search_aliases=["MGIE", "prompt enhancer", "expand instruction", "rewrite prompt"],
            inputs=[
                Vllm.Input(
                    "vllm",
                    tooltip="A stock one from FlexEdit VLLM Loader, or MGIE's of FlexEdit Loader.",
                ),
                io.Image.Input("scene", tooltip="The picture to edit."),
                io.String.Input(
                    "instruction",
                    multiline=True,
                    default="make it winter",
                    tooltip="What should change, in few words.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "expressive",
                    display_name="instruction",
                    tooltip="One line per picture.",
                )
            ],
        )

    @classmethod
    @checked
    @cancellable
    def execute(cls, vllm, scene, instruction) -> io.NodeOutput:
        request = EditRequest.create(to_bchw(scene), instruction)
        model = vllm.use(vllm.read().model.memory_required(request.batch_size, 1))
        speaks_first = vllm.config is not None and vllm.config.sampling.reply == "generate"
        on_token = step_callback(expressive.MAX_TOKENS)
        said = expressive.express(model, request, speaks_first, on_token)
        return io.NodeOutput("\n".join(said))
