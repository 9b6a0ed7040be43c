"""FlexEdit Loader: a model folder's parts, the large ones read when they are first used."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..flexedit.errors import FlexEditError
from ..flexedit.model_folder import EMBEDDED
from .runtime import folders
from .runtime.clip_vision import load_clip_vision
from .runtime.conditioning import Conditioner
from .runtime.options import checked, one_of
from .runtime.parts import PRECISIONS, ManagedPart
from .runtime.types import CATEGORY, Mea, Qformer, Vllm, schema
from .runtime.unet import load_unet
from .runtime.vae import load_vae


class Loader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditLoader",
            display_name="FlexEdit Loader",
            category=CATEGORY,
            description="Opens a FlexEdit model. Large parts are read from disk when they are "
            "first used: to interpret a mask loads no UNet.",
            search_aliases=["load flexedit model", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=folders.model_names(),
                    default=EMBEDDED,
                    tooltip="A folder below models/flexedit, or flexedit-mini, this pack's small "
                    "model for 64-pixel pictures.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="What the model computes in. auto takes what suits your device; fp32 "
                    "is exact and slow, fp16 and bf16 are fast on devices that have them.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Vae.Output(display_name="vae"),
                io.ClipVision.Output(display_name="clip_vision"),
                Vllm.Output(display_name="vllm"),
                Qformer.Output(display_name="qformer"),
                Mea.Output(display_name="mea"),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None, precision: str | None = None) -> bool | str:
        try:
            if model is not None:  # None: it comes through a wire
                folders.open_model(model)
        except FlexEditError as error:
            return str(error)
        return one_of("precision", precision, PRECISIONS)

    @classmethod
    def fingerprint_inputs(cls, model: str | None = None, precision: str | None = None) -> Any:
        return None if model is None else folders.fingerprint(model)

    @classmethod
    @checked
    def execute(cls, model: str, precision: str) -> io.NodeOutput:
        folder = folders.open_model(model)
        config = folder.config
        vllm = ManagedPart("VLLM", folder.load_vllm, precision, config)
        qformer = ManagedPart("bridge", folder.load_bridge, precision, config)
        mea = ManagedPart("MEA", partial(Conditioner, folder), precision, config, encoder=False)
        unet = load_unet(folder, mea, precision)
        clip_vision = load_clip_vision(folder, precision)
        return io.NodeOutput(unet, load_vae(folder, precision), clip_vision, vllm, qformer, mea)
