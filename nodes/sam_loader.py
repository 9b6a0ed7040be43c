"""FlexEdit SAM Loader: a Segment Anything model, for who wants the resolver's best masks."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..flexedit.errors import FlexEditError
from ..flexedit.resolve.sam import load_sam
from .runtime import folders
from .runtime.options import checked, one_of
from .runtime.parts import PRECISIONS, ManagedPart
from .runtime.types import CATEGORY, Sam, schema


class SAMLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditSAMLoader",
            display_name="FlexEdit SAM Loader",
            category=CATEGORY,
            description="Opens a Segment Anything model (SAM, SAM 2 …), for the method sam of "
            "FlexEdit Resolve Mask.",
            search_aliases=["segment anything", "SAM2", "load SAM"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(folders.sam_folders()) or [folders.NONE_YET],
                    tooltip="A folder below models/sams with config.json, processor and "
                    ".safetensors weights, as transformers saves them.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="What the model computes in. auto takes what suits your device; fp32 "
                    "is exact and slow.",
                ),
            ],
            outputs=[Sam.Output("sam", display_name="sam")],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None, precision: str | None = None) -> bool | str:
        try:
            if model is not None:  # None: it comes through a wire
                folders.open_sam(model)
        except FlexEditError as error:
            return str(error)
        return one_of("precision", precision, PRECISIONS)

    @classmethod
    def fingerprint_inputs(cls, model: str | None = None, precision: str | None = None) -> Any:
        return None if model is None else folders.file_times(folders.open_sam(model))

    @classmethod
    @checked
    def execute(cls, model: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(
            ManagedPart("SAM", partial(load_sam, folders.open_sam(model)), precision)
        )
