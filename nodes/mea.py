"""FlexEdit MEA Conditioning: edit embeddings and pictures → what the three branches read (§3.2)."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..flexedit.systems import system
from ..flexedit.systems.system import Embeds
from .runtime import conditioning
from .runtime.interrupt import cancellable
from .runtime.options import checked
from .runtime.parts import ManagedPart
from .runtime.types import CATEGORY, Mea, schema
from .runtime.types import Embeds as EmbedsType


class MEAConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditMEAConditioning",
            display_name="FlexEdit MEA Conditioning",
            category=CATEGORY,
            description="Mask Enhanced Adapter: lets the edit embeddings look at the marked scene, "
            "and readies the subject for the UNet. The three conditionings also work with "
            "DualCFGGuider.",
            search_aliases=["mask enhanced adapter", "flexedit conditioning"],
            inputs=[
                Mea.Input("mea", tooltip="The adapter of a FlexEdit Loader."),
                EmbedsType.Input(
                    "embeds", tooltip="Edit embeddings, with the request they were made for."
                ),
                io.ClipVision.Input(
                    "clip_vision", tooltip="The CLIP that the adapter was trained with."
                ),
                io.Vae.Input("vae", tooltip="Encodes the scene for the UNet."),
                io.Float.Input(
                    "subject_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="λ: how strongly the subject's picture is followed. It changes nothing "
                    "without a subject.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The edit, on the scene."),
                io.Conditioning.Output(display_name="scene_only", tooltip="The scene, unedited."),
                io.Conditioning.Output(display_name="negative", tooltip="Neither."),
                io.Latent.Output(display_name="latent", tooltip="The clean scene, encoded."),
            ],
        )

    @classmethod
    @checked
    @cancellable
    def execute(
        cls, mea: ManagedPart, embeds: Embeds, clip_vision: Any, vae: Any, subject_strength: float
    ) -> io.NodeOutput:
        for note in system.unused(mea.config, strength=subject_strength):
            logging.warning("FlexEdit: %s", note)
        return io.NodeOutput(
            *conditioning.condition(mea, embeds, clip_vision, vae, subject_strength)
        )
