"""One scribble after another: what it may mean, mended, as a mask, an overlay and a report.

B batch, H × W the scene's size in pixels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .. import masks
from ..errors import FlexEditError
from ..masks import check_mask, check_picture, common_batch, opaque, prepare_mask
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
    the scene, of its type · resolutions: the candidates of each scene, none of them grown or
    feathered · chosen: the number of the chosen candidate, 1 being the best.
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
    look: Callable[[], None] = lambda: None,
) -> Resolved:
    """scene (B, C, H, W) and a mask scribbled on each, one or the same number, of any size.

    ``sam``: the model that the method of this name asks · ``candidate``: which one is wanted, 1
    being the best · ``fill_holes``, ``min_area`` (pixels; smaller islands go, the largest stays):
    of every candidate · ``grow``, ``feather``: pixels, of the wanted one, as in `masks` ·
    ``on_picture(count)``: called after each scene, ``look()`` several times in each; what they
    raise ends the work.
    Raises FlexEditError for an empty mask, a candidate that there is not, and a lacking model.
    """
    if method not in METHODS:
        raise FlexEditError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}.")
    if method == "sam" and sam is None:
        raise FlexEditError(
            "The method sam needs a model. Connect a FlexEdit SAM Loader, or choose classic, which "
            "needs none."
        )
    scene = check_picture(scene, "scene")
    scribbles = check_mask(mask)
    batch = common_batch({"scene": len(scene), "mask": len(scribbles)})
    height, width = scene.shape[2:]
    ask: Callable[[Tensor, Tensor], Resolution] = partial(classic.resolve, look=look)
    if method == "sam" and sam is not None:
        ask = sam.resolve
    resolutions, chosen = [], scene.new_empty(batch, height, width, dtype=torch.float32)
    shown = scene.new_empty(batch, 3, height, width)
    for row in range(batch):
        picture = opaque(masks.one_of(scene, row))[0]
        scribble = prepare_mask(masks.one_of(scribbles, row), height, width)[0].to(scene.device)
        found = mend(ask(picture, scribble), fill_holes, min_area, look)
        grown = masks.grow(pick(found, candidate, row + 1)[None].to(chosen), grow)
        if not grown.any():
            raise FlexEditError(
                f"Nothing of the object is left when it shrinks by {-grow} pixels. "
                "Let grow be larger."
            )
        chosen[row] = masks.feather(grown, feather)[0]
        shown[row] = overlay(picture, found, candidate, look)
        resolutions.append(found)
        if on_picture is not None:
            on_picture(row + 1)
    return Resolved(chosen, shown, tuple(resolutions), candidate)


def mend(
    found: Resolution, fill_holes: bool, min_area: int, look: Callable[[], None] = lambda: None
) -> Resolution:
    """Every candidate with its holes filled and without small islands; equal ones become one."""
    mended = []
    for one in found.candidates:
        look()
        mended.append(tidy(one.mask, fill_holes, min_area, look))
    look()
    regions = np.stack(mended).reshape(len(mended), -1)
    kept = distinct(regions, None, range(len(mended)), look)
    candidates = tuple(
        Candidate(mended[index], found.candidates[index].confidence) for index in kept
    )
    return Resolution(candidates, ambiguous=found.ambiguous and kept[:2] == [0, 1])


def tidy(
    mask: np.ndarray, fill_holes: bool, min_area: int, look: Callable[[], None] = lambda: None
) -> np.ndarray:
    """mask (H, W) bool, not empty · min_area: in pixels; the largest island stays in any case."""
    window = masks.window(mask, 0)
    part = mask[window]
    if fill_holes:
        gaps, _ = ndimage.label(np.pad(~part, 1, constant_values=True))
        part = (gaps != gaps[0, 0])[1:-1, 1:-1]  # all but what reaches the outside
        look()
    if min_area > 1:
        islands, _ = ndimage.label(part, np.ones((3, 3)))
        look()
        areas = np.bincount(islands.ravel())
        areas[0] = 0
        part = (areas >= min(min_area, areas.max()))[islands]
    tidied = np.zeros_like(mask)
    tidied[window] = part
    return tidied


def pick(found: Resolution, candidate: int, picture: int) -> Tensor:
    """The mask (H, W) of candidate 1, 2 … of picture 1, 2 …"""
    if not 1 <= candidate <= len(found.candidates):
        raise FlexEditError(
            f"There is no candidate {candidate}: the scribble of picture {picture} has "
            f"{len(found.candidates)}. Choose a smaller number; 1 is the best."
        )
    return torch.from_numpy(found.candidates[candidate - 1].mask)


def overlay(
    scene: Tensor,
    found: Resolution,
    candidate: int,
    look: Callable[[], None] = lambda: None,
) -> Tensor:
    """scene (3, H, W) with the outline of each candidate in its colour (3, H, W); the chosen one
    is filled, and so are both of an ambiguous scribble's.
    """
    height, width = scene.shape[1:]
    thickness = max(1, round(min(height, width) / 200))
    filled = {candidate - 1} | ({0, 1} if found.ambiguous else set())
    outlined = []
    for one in found.candidates:
        look()
        outlined.append(outline(one.mask, thickness))
    picture = scene.clone()
    for index in sorted(filled, reverse=True):
        _paint(picture, found.candidates[index].mask, ALPHA, index)
    for index in (*reversed(range(len(outlined))), candidate - 1):
        _paint(picture, outlined[index], 1.0, index)
    return picture


def _paint(picture: Tensor, mask: np.ndarray, alpha: float, index: int) -> None:
    """Into the picture (3, H, W)"""
    rows, columns = masks.window(mask, 0)
    part, color = picture[:, rows, columns], masks.COLORS[COLORS[index]]
    shape = torch.from_numpy(mask[rows, columns])
    picture[:, rows, columns] = masks.paint(part[None], shape[None], alpha, color)[0]


def outline(mask: np.ndarray, thickness: int) -> np.ndarray:
    """mask (H, W) bool, not empty → its outermost pixels, also along the picture's border"""
    window = masks.window(mask, 0)
    outer = np.zeros_like(mask)
    depth = ndimage.distance_transform_cdt(np.pad(mask[window], 1), "taxicab")[1:-1, 1:-1]
    outer[window] = (depth > 0) & (depth <= thickness)
    return outer


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
