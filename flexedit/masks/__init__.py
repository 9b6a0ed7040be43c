"""Masks, from what a person scribbles to the edit put back into its scene.

shapes, strokes and walk draw one · prepare brings pictures and masks to one size · painting marks a
scene with it and reads a painted one back · regions and compositing keep the rest of the scene.

B batch, H × W height and width in pixels. Pictures are float (B, 3, H, W) in 0..1,
masks float (B, H, W) with 1 = edit.
"""

from .compositing import Box, bounding_crop, composite
from .painting import COLORS, paint, read_mask, read_painted
from .prepare import (
    check_mask,
    check_picture,
    common_batch,
    extent,
    num_masks,
    one_of,
    opaque,
    pad_to_multiple,
    padded,
    prepare_mask,
    prepare_picture,
    resize,
    unpad,
    window,
)
from .regions import connected_change, feather, grow
from .shapes import KINDS, SOLID, draw, rasterise
from .walk import RANDOM_WALK, free_shape, random_walk, scribble, turned_scribble

__all__ = [
    "COLORS",
    "KINDS",
    "RANDOM_WALK",
    "SOLID",
    "Box",
    "bounding_crop",
    "check_mask",
    "check_picture",
    "common_batch",
    "composite",
    "connected_change",
    "draw",
    "extent",
    "feather",
    "free_shape",
    "grow",
    "num_masks",
    "one_of",
    "opaque",
    "pad_to_multiple",
    "padded",
    "paint",
    "prepare_mask",
    "prepare_picture",
    "random_walk",
    "rasterise",
    "read_mask",
    "read_painted",
    "resize",
    "scribble",
    "turned_scribble",
    "unpad",
    "window",
]
