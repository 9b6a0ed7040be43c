"""Cuts the part to edit out of a large scene; Composite puts it back."""

from __future__ import annotations

from comfy_api.latest import io

from ..flexedit.masks import compositing, num_masks
from .runtime.interrupt import cancellable, step_callback
from .runtime.options import checked
from .runtime.types import CATEGORY, CropBox, schema, to_bchw, to_bhwc


class Crop(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditCrop",
            display_name="FlexEdit Crop",
            category=CATEGORY,
            description="Cuts a square around the mask out of a large picture and scales it to the "
            "size that the model edits best. FlexEdit Composite puts the edit back in its place.",
            search_aliases=["inpaint crop", "crop and stitch", "large picture"],
            inputs=[
                io.Image.Input("scene", tooltip="The whole picture, of any size."),
                io.Mask.Input("mask", tooltip="Your scribble: the square is laid around it."),
                io.Int.Input(
                    "size",
                    default=512,
                    min=16,
                    max=4096,
                    step=8,
                    tooltip="Side of the square in pixels: what the model was trained at "
                    "(flexedit-mini 64, SD 1.5 512, SDXL, FLUX and Qwen 1024).",
                ),
                io.Float.Input(
                    "context",
                    default=2.0,
                    min=1.0,
                    max=16.0,
                    step=0.1,
                    tooltip="How much is seen around the mask: the square is this many times as "
                    "large. At the picture's border it is shifted.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "cropped", display_name="cropped", tooltip="One square per picture."
                ),
                io.Mask.Output(
                    "cropped_mask",
                    display_name="cropped mask",
                    tooltip="The scribble within the square.",
                ),
                CropBox.Output(
                    "crop",
                    display_name="crop",
                    tooltip="Where the square lies, for FlexEdit Composite.",
                ),
            ],
        )

    @classmethod
    @checked
    @cancellable
    def execute(cls, scene, mask, size, context) -> io.NodeOutput:
        picture, cropped, crop = compositing.cut(
            to_bchw(scene), mask, size, context, step_callback(max(len(scene), num_masks(mask)))
        )
        return io.NodeOutput(to_bhwc(picture), cropped, crop)
