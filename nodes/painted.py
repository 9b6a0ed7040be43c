"""Reads the mask back that a `segment` edit painted over the scene."""

from __future__ import annotations

from comfy_api.latest import io

from ..flexedit import masks
from .runtime.interrupt import cancellable
from .runtime.options import checked
from .runtime.types import CATEGORY, schema, to_bchw


class ReadPaintedMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditReadPaintedMask",
            display_name="FlexEdit Read Painted Mask",
            category=CATEGORY,
            description="Turns the decoded picture of a segment task, where the whole object is "
            "painted over, into the object's full mask.",
            search_aliases=["segment", "mask from color"],
            inputs=[
                io.Image.Input("scene", tooltip="The picture as it was."),
                io.Image.Input("painted", tooltip="The decode of the segment task of this scene."),
            ],
            outputs=[
                io.Mask.Output(
                    "mask",
                    display_name="mask",
                    tooltip="The whole object; empty if none was painted.",
                )
            ],
        )

    @classmethod
    @checked
    @cancellable
    def execute(cls, scene, painted) -> io.NodeOutput:
        return io.NodeOutput(masks.read_mask(to_bchw(scene), to_bchw(painted)))
