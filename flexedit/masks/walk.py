"""Scribbles over a known object: a brush's random walk, or one of the shapes, loosely drawn (§3.3).

H × W height and width in pixels; masks have 1 = edit
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import scipy
import torch
from torch import Tensor

from ..errors import FlexEditError
from .prepare import EMPTY, extent, prepare_mask
from .shapes import draw, rasterise

RANDOM_WALK = "random walk"


def random_walk(
    object_mask: np.ndarray | Tensor, rng: np.random.Generator, coverage: float | None = None
) -> np.ndarray:
    """W(m_o) of §3.3: a brush walks over the object until `coverage` of it is painted; bool (H, W).

    coverage defaults to U(0.2, 0.8); the brush stays inside the slightly dilated object.
    """
    whole = np.asarray(object_mask) > 0.5
    if not whole.any():
        raise FlexEditError(EMPTY)
    coverage = rng.uniform(0.2, 0.8) if coverage is None else coverage
    (top, bottom), (left, right) = extent(whole, 1), extent(whole, 0)
    margin = max(1, round(0.06 * max(bottom - top, right - left)))
    top, left = max(top - margin, 0), max(left - margin, 0)
    window = np.s_[top : bottom + margin, left : right + margin]
    target = whole[window]
    allowed = scipy.ndimage.binary_dilation(target, iterations=margin)
    height, width = target.shape

    area = int(target.sum())
    radius = max(1.0, rng.uniform(0.12, 0.3) * np.sqrt(area))
    reach = int(radius)
    offset = np.arange(-reach, reach + 1)
    brush = offset[:, None] ** 2 + offset**2 <= radius**2
    painted = np.zeros((height + 2 * reach, width + 2 * reach), bool)  # the brush never clips
    inner = painted[reach : reach + height, reach : reach + width]

    goal = max(1, min(round(coverage * area), area))
    heading, stride = rng.uniform(0, 2 * np.pi), max(1.0, 0.7 * radius)
    y, x = _any_pixel(target, rng)
    for step in itertools.count(1):
        painted[int(y) : int(y) + len(brush), int(x) : int(x) + len(brush)] |= brush
        bare = target & ~inner
        if area - np.count_nonzero(bare) >= goal:
            break
        if step % 24 == 0:  # lift the brush rather than wander for ever
            y, x = _any_pixel(bare, rng)
            continue
        for spread in (0.4, 0.8, 1.6, 3.2):
            angle = rng.normal(heading, spread)
            down, right = y + stride * np.sin(angle), x + stride * np.cos(angle)
            if 0 <= down < height and 0 <= right < width and allowed[int(down), int(right)]:
                y, x, heading = down, right, angle
                break
    walk = np.zeros_like(whole)
    walk[window] = inner & allowed
    return walk


def _any_pixel(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    inside = np.flatnonzero(mask)
    return divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])


def scribble(
    kind: str,
    object_mask: np.ndarray | Tensor,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """A loosely drawn `kind` on an object: part of it covered, often spilling over; bool (H, W).

    Covers 12–70 % of the object (open kinds 8–60 %), and more of it than of any of the
    `others` (N, H, W, bool).
    """
    return turned_scribble(kind, object_mask, rng, others)[0]


def turned_scribble(
    kind: str,
    object_mask: np.ndarray | Tensor,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, float | None]:
    """`scribble`, and the degrees clockwise by which the shape is turned.

    They are None for a random walk, which also stands in where the object is too thin or crowded.
    """
    target = np.asarray(object_mask) > 0.5
    if not target.any():
        raise FlexEditError(EMPTY)
    if kind == RANDOM_WALK:
        return random_walk(target, rng), None
    opened = kind.endswith("open")
    (top, bottom), (left, right) = extent(target, 1), extent(target, 0)
    height, width = bottom - top, right - left
    area = np.count_nonzero(target)
    low, high = (0.08, 0.6) if opened else (0.12, 0.7)
    for _ in range(24):
        dy, dx = rng.uniform(-0.32, 0.32, 2)
        grow = rng.uniform(0.7, 1.2) if opened else rng.uniform(0.45, 0.95)
        stretch = rng.uniform(0.8, 1.25)
        rotation = rng.uniform(0, 360) if "triangle" in kind else rng.uniform(-40, 40)
        mask = rasterise(
            kind,
            target.shape,
            center=(top + (0.5 + dy) * height, left + (0.5 + dx) * width),
            size=(grow * stretch * height, grow / stretch * width),
            rotation=rotation,
            stroke=rng.uniform(0.12, 0.22) * max(height, width) * grow,
            wobble=rng.normal(size=(2, 5)),
        )
        covered = np.count_nonzero(mask & target)
        if low * area <= covered <= high * area and all(
            np.count_nonzero(mask & other) < covered for other in others
        ):
            return mask, rotation
    mask = random_walk(target, rng, coverage=0.35)
    for other in others:
        mask &= ~other | target
    return mask, None


def free_shape(
    kind: str,
    height: int,
    width: int,
    batch: int = 1,
    *,
    object_mask: Tensor | None = None,
    seed: int = 0,
    **shape: float,
) -> Tensor:
    """A mask (batch, H, W) of any kind: one `draw`, or a random walk of each object's own.

    object_mask: what the random walk covers, of any size (only used by it).
    """
    if kind != RANDOM_WALK:
        return draw(kind, height, width, seed=seed, **shape).expand(batch, -1, -1)
    if object_mask is None:
        raise FlexEditError("A random walk needs the object it covers. Connect its mask.")
    objects = prepare_mask(object_mask, height, width, batch) > 0
    walks = [
        random_walk(one.numpy(force=True), np.random.default_rng([seed, index]))
        for index, one in enumerate(objects)
    ]
    return torch.from_numpy(np.stack(walks)).float()
