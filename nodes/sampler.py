"""FlexEdit KSampler: from noise to the edited latent, guided by scene and edit."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from .runtime import guider
from .runtime.options import checked, one_of
from .runtime.types import CATEGORY, schema

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


class KSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditKSampler",
            display_name="FlexEdit KSampler",
            category=CATEGORY,
            description="Samples the edit with two guidance scales, one for the scene and one for "
            "the edit. At denoise 1 it starts from pure noise; a noise mask on the latent is kept.",
            search_aliases=["flexedit sampler", "instructpix2pix sampler"],
            inputs=[
                io.Model.Input("model", tooltip="The UNet of a FlexEdit Loader."),
                io.Conditioning.Input("positive", tooltip="The edit, on the scene."),
                io.Conditioning.Input("scene_only", tooltip="The scene, unedited."),
                io.Conditioning.Input("negative", tooltip="Neither edit nor scene."),
                io.Latent.Input(
                    "latent", tooltip="The encoded scene: its size, and the start below denoise 1."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Decides the noise: the same seed gives the same picture.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=1000,
                    tooltip="More steps cost more time and gain detail.",
                ),
                io.Float.Input(
                    "edit_cfg",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the edit is followed. A model's flexedit.json "
                    "recommends a value: flexedit-mini 3.0, larger ones often 7.5.",
                ),
                io.Float.Input(
                    "scene_cfg",
                    default=1.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the scene is kept; 1.5 suits most models.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=SAMPLERS,
                    default="euler",
                    tooltip="How the noise is removed.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=SCHEDULERS,
                    default="simple",
                    tooltip="How the steps are spaced; simple is what the model was tested with.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 starts from pure noise; less keeps more of the latent.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="edited", tooltip="Decode it with the VAE.")],
        )

    @classmethod
    def validate_inputs(
        cls, sampler_name: str | None = None, scheduler: str | None = None
    ) -> bool | str:
        problem = one_of("sampler", sampler_name, SAMPLERS)
        return problem if problem is not True else one_of("scheduler", scheduler, SCHEDULERS)

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        positive: guider.Packed,
        scene_only: guider.Packed,
        negative: guider.Packed,
        latent: dict[str, Any],
        **settings: Any,
    ) -> io.NodeOutput:
        samples = guider.sample(model, positive, scene_only, negative, latent, **settings)
        return io.NodeOutput(latent | {"samples": samples})
