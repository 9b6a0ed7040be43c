"""A free-shape mask: drawn on the node by hand, or by numbers for tests and batches."""

from __future__ import annotations

from comfy_api.latest import io

from ..flexedit import masks
from ..flexedit.masks import strokes as drawing
from .runtime.interrupt import cancellable, step_callback
from .runtime.options import checked, one_of
from .runtime.preview import show
from .runtime.types import CATEGORY, schema

KINDS = [drawing.DRAWN, *masks.KINDS, masks.RANDOM_WALK]


class FreeShapeMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def fraction(name: str, default: float, low: float, tooltip: str, high: float = 1.0):
            return io.Float.Input(
                name, default=default, min=low, max=high, step=0.01, tooltip=tooltip
            )

        return schema(
            node_id="FlexEditFreeShapeMask",
            display_name="FlexEdit Free-Shape Mask",
            category=CATEGORY,
            description="Draw a rough mask right on the picture. Or without a mouse, by numbers: a "
            "circle, rectangle, triangle or irregular blob, filled or as an open stroke, or a "
            "random walk over a given mask.",
            search_aliases=["scribble", "draw", "paint mask", "mask shape", "random mask"],
            inputs=[
                io.Combo.Input(
                    "kind",
                    options=KINDS,
                    default=drawing.DRAWN,
                    tooltip="drawn: what you draw on the node. The other shapes follow the numbers "
                    "below; the open kinds are an outline. A random walk scribbles over the mask "
                    "that is connected, as a hand would.",
                ),
                fraction("x", 0.5, 0.0, "Centre from the left, as a fraction of the width."),
                fraction("y", 0.5, 0.0, "Centre from the top, as a fraction of the height."),
                fraction("shape_width", 0.4, 0.01, "Width as a fraction of the picture's.", 2.0),
                fraction("shape_height", 0.4, 0.01, "Height as a fraction of the picture's.", 2.0),
                io.Float.Input(
                    "rotation",
                    default=0.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Degrees, clockwise.",
                ),
                fraction(
                    "stroke", 0.06, 0.005, "How thick an open kind's line is, of the shorter side."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Chooses the outline of the irregular kinds and the random walk.",
                ),
                io.Int.Input(
                    "image_width",
                    default=512,
                    min=1,
                    max=16384,
                    tooltip="Width of the mask; used when no image is connected.",
                ),
                io.Int.Input(
                    "image_height",
                    default=512,
                    min=1,
                    max=16384,
                    tooltip="Height of the mask; used when no image is connected.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture to draw on: gives the mask its size and number.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The object that a random walk covers. The other kinds ignore it.",
                ),
                io.String.Input(
                    "strokes",
                    default="",
                    optional=True,
                    tooltip="What was drawn on the node, as JSON. Only the kind 'drawn' uses it.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[io.Mask.Output("free_shape", display_name="mask")],
        )

    @classmethod
    def validate_inputs(cls, kind=None):
        return one_of("kind", kind, KINDS)

    @classmethod
    @checked
    @cancellable
    def execute(
        cls, kind, seed, image_width, image_height, image=None, mask=None, strokes="", **shape
    ) -> io.NodeOutput:
        batch, height, width = 1, image_height, image_width
        if image is not None:
            batch, height, width = image.shape[:3]
        elif kind == masks.RANDOM_WALK and mask is not None:
            batch, height, width = mask.reshape(-1, *mask.shape[-2:]).shape
        if kind == drawing.DRAWN:
            picture = None if image is None else show(image, cls.hidden.unique_id)
            lines = drawing.parse(strokes)
            drawn = drawing.rasterise(lines, height, width, step_callback(len(lines)))
            return io.NodeOutput(drawn.repeat(batch, 1, 1), ui=picture)
        drawn = masks.free_shape(kind, height, width, batch, object_mask=mask, seed=seed, **shape)
        return io.NodeOutput(drawn)
