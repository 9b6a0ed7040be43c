"""The last stage: the edit inside its region, the scene's own pixels everywhere else."""

from __future__ import annotations

from comfy_api.latest import io

from ..flexedit.masks import compositing, num_masks
from .runtime.interrupt import cancellable, step_callback
from .runtime.options import checked, one_of
from .runtime.types import CATEGORY, CropBox, schema, to_bchw, to_bhwc


class Composite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FlexEditComposite",
            display_name="FlexEdit Composite",
            category=CATEGORY,
            description="Puts the edit into the scene. Outside the edited region every pixel stays "
            "exactly as it was, and the picture keeps its exact size and its transparency.",
            search_aliases=["paste back", "stitch", "blend", "keep background"],
            inputs=[  # the edit first: it is what a bypassed node passes on
                io.Image.Input("edited", tooltip="The decoded edit, of the scene or of its crop."),
                io.Image.Input("scene", tooltip="The picture as it was."),
                io.Mask.Input("mask", tooltip="Your scribble, or the whole object's mask."),
                io.Combo.Input(
                    "region",
                    options=list(compositing.REGIONS),
                    default=compositing.REGIONS[1],
                    tooltip="mask: only what the mask covers. mask + connected change: also what "
                    "changed next to it, as when a rough scribble stands for a larger object.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-512,
                    max=512,
                    tooltip="Pixels to grow the region by; negative shrinks it.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels over which the edit fades in, inside the region.",
                ),
                CropBox.Input(
                    "crop",
                    optional=True,
                    tooltip="From FlexEdit Crop, when the edit was made on a crop of the scene.",
                ),
                io.Boolean.Input(
                    "color_match",
                    optional=True,
                    default=False,
                    tooltip="Gives the edit the scene's brightness and contrast, measured where "
                    "nothing was to change: against a tint or a veil over the whole edit.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The scene with the edit."),
                io.Mask.Output("region_mask", display_name="region", tooltip="Where the edit is."),
            ],
        )

    @classmethod
    def validate_inputs(cls, region=None):
        return one_of("region", region, compositing.REGIONS)

    @classmethod
    @checked
    @cancellable
    def execute(
        cls, scene, edited, mask, region, grow, feather, crop=None, color_match=False
    ) -> io.NodeOutput:
        picture, edited_region = compositing.put_edit(
            to_bchw(scene),
            to_bchw(edited),
            mask,
            region=region,
            grow=grow,
            feather=feather,
            crop=crop,
            color_match=color_match,
            on_picture=step_callback(max(len(scene), len(edited), num_masks(mask))),
        )
        return io.NodeOutput(to_bhwc(picture), edited_region)
