"""One scribble after another: what it may mean, mended, as a mask, an overlay and a report.

B batch, H × W the scene's size in pixels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .. import masks
from ..errors import FlexEditError
from ..masks import common_batch, prepare_picture
from . import classic
from .candidates import Candidate, Resolution, distinct

if TYPE_CHECKING:
    from .sam import Sam

METHODS = ("classic", "sam")
COLORS = ("red", "cyan", "yellow", "purple", "green", "orange")  # of candidates 1 to 6
ALPHA = 0.45  # of a filled candidate
AMBIGUOUS = (
    "The scribble seems to mean two things: candidate 1 and candidate 2. "
    "Choose one of them, or scribble over one thing only."
)


@dataclass(frozen=True)
class Resolved:
    """mask (B, H, W) in 0..1, of the chosen candidate · overlay (B, 3, H, W), all candidates over
    the scene · resolutions: the candidates of each scene, none of them grown or feathered ·
    chosen: the number of the chosen candidate, 1 being the best.
    """

    mask: Tensor
    overlay: Tensor
    resolutions: tuple[Resolution, ...]
    chosen: int

    def report(self) -> list[dict[str, Any]]:
        """What JSON can say of each scene; areas are shares of the picture, boxes in pixels."""
        return [describe(found, self.chosen) for found in self.resolutions]


def resolve(
    scene: Tensor,
    mask: Tensor,
    method: str = "classic",
    *,
    sam: Sam | None = None,
    candidate: int = 1,
    fill_holes: bool = True,
    min_area: int = 64,
    grow: int = 0,
    feather: int = 0,
    on_picture: Callable[[int], None] | None = None,
) -> Resolved:
    """scene (B, C, H, W) and a mask scribbled on each, one or the same number, of any size.

    ``sam``: the model that the method of this name asks · ``candidate``: which one is wanted, 1
    being the best · ``fill_holes``, ``min_area`` (pixels; smaller islands go, the largest stays):
    of every candidate · ``grow``, ``feather``: pixels, of the wanted one, as in `masks` ·
    ``on_picture(count)``: called after each scene; what it raises ends the work.
    Raises FlexEditError for an empty mask, a candidate that there is not, and a lacking model.
    """
    if method not in METHODS:
        raise FlexEditError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}.")
    if method == "sam" and sam is None:
        raise FlexEditError(
            "The method sam needs a model. Connect a FlexEdit SAM Loader, or choose classic, which "
            "needs none."
        )
    scene = prepare_picture(scene, "scene")
    batch = common_batch({"scene": scene.shape[0], "mask": masks.num_masks(mask)})
    scene = scene.expand(batch, -1, -1, -1)
    scribbles = masks.prepare_mask(mask, scene.shape[2], scene.shape[3], batch)
    resolutions = []
    for row, picture in enumerate(scene):
        ask = sam.resolve if method == "sam" and sam is not None else classic.resolve
        found = mend(ask(picture, scribbles[row]), fill_holes, min_area)
        resolutions.append(found)
        if on_picture is not None:
            on_picture(row + 1)
    wanted = torch.stack(
        [pick(found, candidate, row + 1) for row, found in enumerate(resolutions)]
    ).to(scene)
    grown = masks.grow(wanted, grow)
    if not grown.flatten(1).any(1).all():
        raise FlexEditError(
            f"Nothing of the object is left when it shrinks by {-grow} pixels. Let grow be larger."
        )
    shown = [overlay(*one, candidate) for one in zip(scene, resolutions, strict=True)]
    feathered = masks.feather(grown, feather)
    return Resolved(feathered, torch.stack(shown), tuple(resolutions), candidate)


def mend(found: Resolution, fill_holes: bool, min_area: int) -> Resolution:
    """Every candidate with its holes filled and without small islands; equal ones become one."""
    mended = [tidy(one.mask, fill_holes, min_area) for one in found.candidates]
    regions = np.stack(mended).reshape(len(mended), -1)
    kept = distinct(regions, np.ones(regions.shape[1], np.int32), range(len(mended)))
    candidates = tuple(replace(found.candidates[index], mask=mended[index]) for index in kept)
    return Resolution(candidates, ambiguous=found.ambiguous and kept[:2] == [0, 1])


def tidy(mask: np.ndarray, fill_holes: bool, min_area: int) -> np.ndarray:
    """mask (H, W) bool, not empty · min_area: in pixels; the largest island stays in any case."""
    if fill_holes:
        mask = ndimage.binary_fill_holes(mask)
    if min_area > 1:
        islands, _ = ndimage.label(mask, np.ones((3, 3)))
        areas = np.bincount(islands.ravel())
        areas[0] = 0
        mask = (areas >= min(min_area, areas.max()))[islands]
    return mask


def pick(found: Resolution, candidate: int, picture: int) -> Tensor:
    """The mask (H, W) of candidate 1, 2 … of picture 1, 2 …"""
    if not 1 <= candidate <= len(found.candidates):
        raise FlexEditError(
            f"There is no candidate {candidate}: the scribble of picture {picture} has "
            f"{len(found.candidates)}. Choose a smaller number; 1 is the best."
        )
    return torch.from_numpy(found.candidates[candidate - 1].mask)


def overlay(scene: Tensor, found: Resolution, candidate: int) -> Tensor:
    """scene (3, H, W) with the outline of each candidate in its colour (3, H, W); the chosen one
    is filled, and so are both of an ambiguous scribble's.
    """
    height, width = scene.shape[1:]
    thickness = max(1, round(min(height, width) / 200))
    filled = {candidate - 1} | ({0, 1} if found.ambiguous else set())
    outlined = [outline(one.mask, thickness) for one in found.candidates]
    picture = scene
    for index in sorted(filled, reverse=True):
        picture = _paint(picture, found.candidates[index].mask, ALPHA, index)
    for index in reversed(range(len(outlined))):
        picture = _paint(picture, outlined[index], 1.0, index)
    return _paint(picture, outlined[candidate - 1], 1.0, candidate - 1)


def _paint(picture: Tensor, mask: np.ndarray, alpha: float, index: int) -> Tensor:
    color = masks.COLORS[COLORS[index]]
    return masks.paint(picture[None], torch.from_numpy(mask)[None], alpha, color)[0]


def outline(mask: np.ndarray, thickness: int) -> np.ndarray:
    """mask (H, W) bool → its outermost pixels, also along the picture's border"""
    return mask & ~ndimage.binary_erosion(mask, iterations=thickness)


def describe(found: Resolution, chosen: int) -> dict[str, Any]:
    """A resolution without its masks."""
    return {
        "chosen": chosen,
        "ambiguous": found.ambiguous,
        "message": AMBIGUOUS if found.ambiguous else "",
        "candidates": [
            {
                "candidate": index + 1,
                "confidence": round(one.confidence, 3),
                "area": round(float(one.mask.mean()), 5),
                "box": bounding_box(one),
                "color": COLORS[index],
            }
            for index, one in enumerate(found.candidates)
        ],
    }


def bounding_box(one: Candidate) -> Sequence[int]:
    """left, top, right, bottom"""
    (top, bottom), (left, right) = (masks.extent(one.mask, axis) for axis in (1, 0))
    return [left, top, right, bottom]
