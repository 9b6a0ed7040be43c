"""Cutting out the part of a large scene to edit, and putting an edit back so that every other pixel
of the scene stays as it was.

B batch, H × W the scene's size, S the side of a crop in pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FlexEditError
from . import regions
from .prepare import (
    EMPTY,
    common_batch,
    extent,
    fit,
    num_masks,
    prepare_mask,
    prepare_picture,
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

    def inner(self, index: int) -> tuple[int, int]:
        """Height and width of a box within its S × S crop; right and bottom of it is padding."""
        left, top, right, bottom = self.boxes[index]
        scale = self.size / max(right - left, bottom - top)
        return max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))


def cut(scene: Tensor, mask: Tensor, size: int, context: float) -> tuple[Tensor, Tensor, Crop]:
    """scene (B, 3, H, W), mask (B, H, W) → crops (B, 3, S, S), their masks (B, S, S), the boxes.

    Each box is ``context`` times as large as the mask, shifted at a border rather than shrunk;
    where the whole scene is narrower than the box, the crop repeats the scene's edge.
    """
    scene, fitting = _matched(scene, mask)
    boxes = tuple(bounding_crop(fitting, context, minimum=1))
    height, width = scene.shape[2:]
    crop = Crop(boxes, size, height, width, mask)
    shapes = extract(fitting.unsqueeze(1), crop, mode="bilinear", padding="constant")
    return extract(scene, crop), shapes[:, 0], crop


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


def extract(
    picture: Tensor, crop: Crop, mode: str = "bicubic", padding: str = "replicate"
) -> Tensor:
    """picture (B, C, H, W) → what its boxes show, scaled to (B, C, S, S)."""
    crops = []
    for index in range(picture.shape[0]):
        number = index if len(crop.boxes) > 1 else 0
        left, top, right, bottom = crop.boxes[number]
        height, width = crop.inner(number)
        inner = resize(picture[index : index + 1, :, top:bottom, left:right], height, width, mode)
        crops.append(F.pad(inner, (0, crop.size - width, 0, crop.size - height), mode=padding))
    return torch.cat(crops)


def put_back(scene: Tensor, edited: Tensor, crop: Crop) -> Tensor:
    """scene (B, C, H, W) with each edited crop (B, C, S, S) scaled back into its box."""
    if (crop.height, crop.width) != tuple(scene.shape[2:]):
        raise FlexEditError(
            f"The crop was cut from a scene of {crop.width}×{crop.height} pixels, but this one has "
            f"{scene.shape[3]}×{scene.shape[2]}. Connect the scene that the crop was cut from."
        )
    if len(crop.boxes) not in (1, scene.shape[0]):
        raise FlexEditError(
            f"The crop has {len(crop.boxes)} boxes for {scene.shape[0]} pictures. "
            "Connect the scene that the crop was cut from."
        )
    edited = fit(edited, crop.size, crop.size)
    result = scene.clone()
    for row in range(scene.shape[0]):
        index = row if len(crop.boxes) > 1 else 0
        left, top, right, bottom = crop.boxes[index]
        inner = unpad(edited[row : row + 1], *crop.inner(index))
        result[row, :, top:bottom, left:right] = resize(inner, bottom - top, right - left)[0]
    return result


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
) -> tuple[Tensor, Tensor]:
    """→ the scene with the edit inside its region (B, 3, H, W), and that region (B, H, W).

    scene, edited, mask: any channels, each one picture or the same number; for an edit of another
    size see `fit`. ``region``: one of REGIONS · ``grow``, ``feather`` in pixels · ``crop``: edited,
    and a mask that is one (`Crop.holds`), are crops to be put back first ·
    ``color_match``: give the edit the scene's colours first, see `match_colors`.
    Outside the region every pixel keeps the scene's own value bit for bit.
    """
    if region not in REGIONS:
        raise FlexEditError(f"Unknown region {region!r}; choose one of {', '.join(REGIONS)}.")
    scene = prepare_picture(scene, "scene")
    edited = prepare_picture(edited, "edited picture").to(scene.device)
    mask = mask.to(scene.device)
    counts = {"scene": scene.shape[0], "edited": edited.shape[0], "mask": num_masks(mask)}
    if crop is not None:
        counts["crop"] = len(crop.boxes)
    batch = common_batch(counts)
    scene, edited = (x.expand(batch, -1, -1, -1) for x in (scene, edited))
    height, width = scene.shape[2:]
    unedited, seen = scene, torch.ones_like(scene[:, 0])
    if crop is None:
        mask = prepare_mask(mask, height, width, batch)
        edited = fit(edited, height, width)
    else:
        edited = put_back(scene, edited, crop)
        unedited = put_back(scene, extract(scene, crop), crop)  # lost detail is not a change
        seen = box_mask(crop, batch).to(scene)
        if crop.holds(mask):
            cropped = prepare_mask(mask, crop.size, crop.size, batch).unsqueeze(1)
            mask = put_back(torch.zeros_like(scene[:, :1]), cropped, crop)[:, 0]
        mask = prepare_mask(mask, height, width, batch)
    if color_match:
        edited = match_colors(edited, unedited, (mask == 0) & (seen > 0))
    if region == "mask + connected change":
        changed = regions.connected_change(unedited, edited, mask, seen=seen)
        mask = torch.maximum(mask, changed)
    mask = regions.grow(mask, grow)
    if not mask.flatten(1).any(1).all():
        raise FlexEditError(
            f"Nothing of the region is left when it shrinks by {-grow} pixels. Let grow be larger."
        )
    mask = regions.feather(mask * seen, feather)
    return composite(scene, edited, mask), mask


def composite(scene: Tensor, edited: Tensor, region: Tensor) -> Tensor:
    """`edited` inside the region, the scene's own pixels bit for bit where the region is 0.

    scene, edited (B, 3, H, W), region (B, H, W) in 0..1, blended between.
    """
    weight = region.to(scene).unsqueeze(1)
    return torch.where(weight > 0, torch.lerp(scene, edited.to(scene), weight), scene)


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
    x, y = x[:, same], y[:, same]
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


def box_mask(crop: Crop, batch: int) -> Tensor:
    """1 inside each picture's box: (batch, H, W)"""
    seen = torch.zeros(batch, crop.height, crop.width)
    for row in range(batch):
        left, top, right, bottom = crop.boxes[row if len(crop.boxes) > 1 else 0]
        seen[row, top:bottom, left:right] = 1
    return seen


def same_masks(one: Tensor, other: Tensor) -> bool:
    """Whether masks (…, H, W) of one size are the same, whatever their leading dimensions."""
    one, other = (mask.reshape(-1, *mask.shape[-2:]) for mask in (one, other))
    return torch.equal(one.cpu(), other.cpu())


def _matched(scene: Tensor, mask: Tensor) -> Sequence[Tensor]:
    scene = prepare_picture(scene, "scene")
    batch = common_batch({"scene": scene.shape[0], "mask": num_masks(mask)})
    scene = scene.expand(batch, -1, -1, -1)
    return scene, prepare_mask(mask, scene.shape[2], scene.shape[3], batch)
