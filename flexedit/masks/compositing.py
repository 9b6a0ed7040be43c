"""Cutting out the part of a large scene to edit, and putting an edit back so that every other pixel
of the scene stays as it was.

B batch, H × W the scene's size, S the side of a crop in pixels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FlexEditError
from . import regions
from .prepare import (
    EMPTY,
    check_mask,
    check_picture,
    common_batch,
    extent,
    fit,
    num_masks,
    one_of,
    opaque,
    prepare_mask,
    resize,
    unpad,
)

REGIONS = ("mask", "mask + connected change")
FLAT = 0.02  # a spread of brightness too small to tell a gain from

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Crop:
    """Where crops (B, 3, S, S) come from: one box per picture of a scene ``height`` × ``width``.

    ``mask``: what the boxes lie around, as it was given.
    """

    boxes: tuple[Box, ...]
    size: int
    height: int
    width: int
    mask: Tensor = field(compare=False, repr=False)

    def holds(self, mask: Tensor) -> bool:
        """Whether a mask (…, h, w) is one of the crops, and not of the whole scene.

        Only its size tells; but a mask of a crop's size may stand for the whole scene too, as when
        it is drawn without a picture. Then it is the one that the boxes lie around.
        """
        shape = tuple(mask.shape[-2:])
        if shape != (self.size, self.size) or shape == (self.height, self.width):
            return False
        return self.mask.shape[-2:] != shape or not same_masks(mask, self.mask)

    def box(self, row: int) -> Box:
        """Of a picture; one box serves a whole batch."""
        return self.boxes[row if len(self.boxes) > 1 else 0]

    def inner(self, row: int) -> tuple[int, int]:
        """Height and width of a box within its S × S crop; right and bottom of it is padding."""
        left, top, right, bottom = self.box(row)
        scale = self.size / max(right - left, bottom - top)
        return max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))


def cut(
    scene: Tensor,
    mask: Tensor,
    size: int,
    context: float,
    on_picture: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor, Crop]:
    """scene (B, C, H, W), mask (B, H, W) → crops (B, 3, S, S), their masks (B, S, S), the boxes.

    Each box is ``context`` times as large as the mask, shifted at a border rather than shrunk;
    where the whole scene is narrower than the box, the crop repeats the scene's edge. Crops have
    the scene's type, and no alpha: see `opaque`. ``on_picture(count)``: called after each of them.
    """
    scene = check_picture(scene, "scene")
    height, width = scene.shape[2:]
    batch = common_batch({"scene": scene.shape[0], "mask": num_masks(mask)})
    fitting = prepare_mask(mask, height, width, num_masks(mask))
    boxes = tuple(bounding_crop(fitting, context, minimum=1))
    crop = Crop(boxes, size, height, width, mask)
    crops, shapes = scene.new_empty(batch, 3, size, size), fitting.new_empty(batch, size, size)
    for row in range(batch):
        left, top, right, bottom = crop.box(row)
        seen = one_of(scene, row)[..., top:bottom, left:right]
        crops[row] = _into_crop(opaque(seen), *crop.inner(row), size)[0]
        drawn = one_of(fitting, row)[None, :, top:bottom, left:right]
        shapes[row] = _into_crop(drawn, *crop.inner(row), size, "bilinear", "constant")[0, 0]
        if on_picture is not None:
            on_picture(row + 1)
    return crops, shapes, crop


def _into_crop(
    part: Tensor,
    height: int,
    width: int,
    size: int,
    mode: str = "bicubic",
    padding: str = "replicate",
) -> Tensor:
    """part (1, C, h, w) of a picture, scaled and padded to (1, C, S, S)"""
    inner = resize(part, height, width, mode)
    return F.pad(inner, (0, size - width, 0, size - height), mode=padding)


def bounding_crop(mask: Tensor, context: float = 2.0, minimum: int = 64) -> list[Box]:
    """One square (left, top, right, bottom) around each mask (B, H, W), `context` times its size.

    At a border the square is shifted, not shrunk; a picture smaller than it is taken whole on
    that side. Raises FlexEditError for an empty mask.
    """
    height, width = mask.shape[1:]
    boxes = []
    for one in (mask > 0).numpy(force=True):
        if not one.any():
            raise FlexEditError(EMPTY)
        (top, bottom), (left, right) = extent(one, 1), extent(one, 0)
        longest = max(bottom - top, right - left)
        side = max(round(context * longest), longest, minimum)
        box_width, box_height = min(side, width), min(side, height)
        x = min(max((left + right - box_width) // 2, 0), width - box_width)
        y = min(max((top + bottom - box_height) // 2, 0), height - box_height)
        boxes.append((x, y, x + box_width, y + box_height))
    return boxes


def _out_of_crop(edited: Tensor, crop: Crop, row: int) -> Tensor:
    """edited (1, C, S, S) → (1, C, h, w) as large as its box"""
    left, top, right, bottom = crop.box(row)
    return resize(unpad(edited, *crop.inner(row)), bottom - top, right - left)


def put_edit(
    scene: Tensor,
    edited: Tensor,
    mask: Tensor,
    *,
    region: str = "mask",
    grow: int = 0,
    feather: int = 0,
    crop: Crop | None = None,
    color_match: bool = False,
    on_picture: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """→ the scene with the edit inside its region (B, C, H, W), and that region (B, H, W).

    scene, edited, mask: each one picture or the same number; for an edit of another size see `fit`.
    The result has the scene's type and channels (C is 4 with alpha, else 3); an edit is opaque.
    ``region``: one of REGIONS · ``grow``, ``feather`` in pixels · ``crop``: edited, and a mask that
    is one (`Crop.holds`), are crops to be put back first · ``color_match``: give the edit the
    scene's colours first, see `match_colors` · ``on_picture(count)``: called after each picture.
    Outside the region every pixel keeps the scene's own value bit for bit.
    """
    if region not in REGIONS:
        raise FlexEditError(f"Unknown region {region!r}; choose one of {', '.join(REGIONS)}.")
    scene = check_picture(scene, "scene")
    edited = check_picture(edited, "edited picture").to(scene.device)
    mask = check_mask(mask).to(scene.device)
    counts = {"scene": len(scene), "edited": len(edited), "mask": len(mask)}
    if crop is not None:
        counts["crop"] = len(crop.boxes)
    batch = common_batch(counts)
    height, width = scene.shape[2:]
    if crop is not None and (crop.height, crop.width) != (height, width):
        raise FlexEditError(
            f"The crop was cut from a scene of {crop.width}×{crop.height} pixels, but this one has "
            f"{width}×{height}. Connect the scene that the crop was cut from."
        )
    is_cropped = crop is not None and crop.holds(mask)
    result = scene.expand(batch, 3 if scene.shape[1] == 1 else -1, -1, -1).clone()
    found = result.new_zeros(batch, height, width, dtype=torch.float32)
    for row in range(batch):
        left, top, right, bottom = (0, 0, width, height) if crop is None else crop.box(row)
        inside = np.s_[:, top:bottom, left:right]
        before = opaque(one_of(scene, row)[0][inside][None])
        after, unedited = opaque(one_of(edited, row)), before
        drawn = one_of(mask, row)
        if crop is None:
            after = fit(after, height, width)
        else:
            after = _out_of_crop(fit(after, crop.size, crop.size), crop, row)
            if color_match or region != "mask":  # detail that a crop loses is no change
                shrunk = _into_crop(before, *crop.inner(row), crop.size)
                unedited = _out_of_crop(shrunk, crop, row)
            if is_cropped:
                drawn = _mask_out_of_crop(drawn, crop, row)
        where = prepare_mask(drawn, height, width)
        if color_match:
            after = match_colors(after, unedited, where[inside] == 0)
        if region == "mask + connected change":
            changed = regions.connected_change(unedited, after, where[inside])
            where = where.clone()
            where[inside] = torch.maximum(where[inside], changed)
        weight = _soft_region(where, (left, top, right, bottom), grow, feather)
        found[row][inside[1:]] = weight[0]
        result[row][inside] = composite(result[row][inside][None], after, weight)[0]
        if on_picture is not None:
            on_picture(row + 1)
    return result, found


def _mask_out_of_crop(drawn: Tensor, crop: Crop, row: int) -> Tensor:
    """drawn (1, S, S), of a crop → (1, H, W)"""
    left, top, right, bottom = crop.box(row)
    cropped = prepare_mask(drawn, crop.size, crop.size)[None]
    whole = cropped.new_zeros(1, crop.height, crop.width)
    whole[:, top:bottom, left:right] = _out_of_crop(cropped, crop, row)[0]
    return whole


def _soft_region(mask: Tensor, box: Box, grow: int, feather: int) -> Tensor:
    """mask (1, H, W), grown and feathered within its box (1, h, w), at whose sides it ends"""
    (left, top, right, bottom), margin = box, abs(grow) + 1  # what lies there counts
    y, x = max(top - margin, 0), max(left - margin, 0)
    around = mask[:, y : bottom + margin, x : right + margin]
    grown = regions.grow(around, grow)
    if grow < 0 and not grown.any():
        raise FlexEditError(
            f"Nothing of the region is left when it shrinks by {-grow} pixels. Let grow be larger."
        )
    inside = np.s_[:, top - y : bottom - y, left - x : right - x]
    ended = torch.zeros_like(grown)
    ended[inside] = grown[inside]
    return regions.feather(ended, feather)[inside]


def composite(scene: Tensor, edited: Tensor, region: Tensor) -> Tensor:
    """`edited` inside the region, the scene's own pixels bit for bit where the region is 0.

    scene (B, 3 or 4, H, W), edited (B, 3, H, W), region (B, H, W) in 0..1, blended between; where
    the scene is transparent, the edit is seen as far as the region has it.
    """
    weight = region.unsqueeze(1)
    picture, share = scene.to(weight.dtype), weight
    if scene.shape[1] == 4:
        alpha = torch.lerp(picture[:, 3:], torch.ones_like(weight), weight)
        share = weight / alpha.clamp_min(torch.finfo(weight.dtype).tiny)  # of what is seen
    mixed = torch.lerp(picture[:, :3], edited.to(picture), share)
    if scene.shape[1] == 4:
        mixed = torch.cat([mixed, alpha], 1)
    return torch.where(weight > 0, mixed.to(scene.dtype), scene)


def with_alpha(picture: Tensor, alpha: Tensor, mask: Tensor | None) -> Tensor:
    """picture (B, 3, H, W), edited as a whole, as transparent as its scene was: (B, 4, H, W); what
    the mask (B, H, W) covers is seen. alpha (B, 1, H, W)
    """
    if mask is not None:
        alpha = torch.maximum(alpha, mask.unsqueeze(1))
    return torch.cat([picture, alpha], 1)


def match_colors(edited: Tensor, scene: Tensor, same: Tensor) -> Tensor:
    """edited (B, 3, H, W) with the scene's contrast and brightness in each channel.

    One gain and offset per channel, fitted where both should show the same: ``same`` (B, H, W), of
    which the pixels that fit worst, where the edit changed more than it was asked to, are left out.
    """
    rows = [_match_one(*row) for row in zip(edited, scene, same, strict=True)]
    return torch.stack(rows)


def _match_one(edited: Tensor, scene: Tensor, same: Tensor) -> Tensor:
    if not same.any():
        raise FlexEditError(
            "color_match has nothing to compare: the mask covers the whole picture. Turn it off."
        )
    # Fine detail is lost in an edit: it would make the edit look low in contrast.
    x, y = (F.avg_pool2d(picture, 5, 1, 2, count_include_pad=False) for picture in (edited, scene))
    x, y = (regions.sampled(picture, same) for picture in (x, y))
    gain = torch.ones_like(x[:, :1])
    offset = (y - x).median(1, keepdim=True).values
    for _ in range(3):
        error = (y - gain * x - offset).abs().amax(0)
        fits = error <= 2 * error.median()
        mean_x, mean_y = (one[:, fits].mean(1, keepdim=True) for one in (x, y))
        dx, dy = x[:, fits] - mean_x, y[:, fits] - mean_y
        excess = ((dy - dx) * dx).mean(1, keepdim=True)
        gain = 1 + excess / (dx.square().mean(1, keepdim=True) + FLAT**2)
        offset = mean_y - gain * mean_x
    return (gain[..., None] * edited + offset[..., None]).clamp(0, 1)


def same_masks(one: Tensor, other: Tensor) -> bool:
    """Whether masks (…, H, W) of one size are the same, whatever their leading dimensions."""
    one, other = (mask.reshape(-1, *mask.shape[-2:]) for mask in (one, other))
    return torch.equal(one.cpu(), other.cpu())
