"""Shapes that numbers describe: circle, rectangle, triangle, irregular; solid or an outline (§3.4).

H × W height and width in pixels; masks have 1 = edit
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import FlexEditError

SOLID = ("circle", "rectangle", "triangle", "irregular")
KINDS = SOLID + tuple(f"{kind} open" for kind in SOLID)


def draw(
    kind: str,
    height: int,
    width: int,
    *,
    x: float = 0.5,
    y: float = 0.5,
    shape_width: float = 0.4,
    shape_height: float = 0.4,
    rotation: float = 0.0,
    stroke: float = 0.06,
    seed: int = 0,
) -> Tensor:
    """A free-shape mask (H, W): solid, or for the open kinds an outline `stroke` wide.

    x, y (the centre) and the sizes are fractions of the picture, `stroke` of its shorter side,
    `rotation` is in degrees clockwise; `seed` chooses the outline of the irregular kinds.
    Raises FlexEditError for an unknown kind, sizes not above 0, or a shape outside the picture.
    """
    if kind not in KINDS:
        raise FlexEditError(f"Unknown mask kind {kind!r}; choose one of {', '.join(KINDS)}.")
    if height < 1 or width < 1:
        raise FlexEditError(
            f"A mask of {width}×{height} pixels has no area; both must be at least 1."
        )
    numbers = (x, y, shape_width, shape_height, rotation, stroke)
    if not np.isfinite(numbers).all() or min(shape_width, shape_height) <= 0 or stroke <= 0:
        raise FlexEditError(
            f"shape_width {shape_width}, shape_height {shape_height} and stroke {stroke} "
            "must be above 0, and all positions finite."
        )
    mask = rasterise(
        kind,
        (height, width),
        center=(y * height, x * width),
        size=(shape_height * height, shape_width * width),
        rotation=rotation,
        stroke=stroke * min(height, width),
        wobble=np.random.default_rng(seed).normal(size=(2, 5)),
    )
    if not mask.any():
        raise FlexEditError(
            f"The {kind} at x {x}, y {y} lies outside the picture. Move it inside or enlarge it."
        )
    return torch.from_numpy(mask).float()


def rasterise(
    kind: str,
    shape: tuple[int, int],
    *,
    center: tuple[float, float],
    size: tuple[float, float],
    rotation: float = 0.0,
    stroke: float = 1.0,
    wobble: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """`draw` in pixels: center and size are (vertical, horizontal); bool (H, W), maybe empty.

    `wobble` (2, 5): cosine and sine amplitudes of the irregular outline · `mask`: what is drawn
    into, a new one by default.
    """
    mask = np.zeros(shape, bool) if mask is None else mask
    b, a = (max(side, 1.0) / 2 for side in size)
    angle = np.deg2rad(rotation)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    reach_y, reach_x = abs(sin) * a + abs(cos) * b, abs(cos) * a + abs(sin) * b
    top, bottom = (int(np.clip(center[0] + r, 0, shape[0])) for r in (-reach_y, reach_y + 1))
    left, right = (int(np.clip(center[1] + r, 0, shape[1])) for r in (-reach_x, reach_x + 1))
    window = mask[top:bottom, left:right]
    if window.all():  # of nothing, too
        return mask
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - center[0])
    dx = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - center[1])
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    form, _, opened = kind.partition(" ")
    depth = _depth(form, u, v, a, b, wobble)
    inside = depth >= 0
    if opened:
        inside &= depth <= max(stroke, 1.0)
    if inside.any():
        window |= inside
    elif min(a, b) < 1 and all(0 <= at <= side for at, side in zip(center, shape, strict=True)):
        # so thin that it lies between the pixels' centres
        mask[tuple(min(int(at), side - 1) for at, side in zip(center, shape, strict=True))] = True
    return mask


def _depth(
    form: str, u: np.ndarray, v: np.ndarray, a: float, b: float, wobble: np.ndarray | None
) -> np.ndarray:
    """Distance in pixels from the outline of a form with half sizes a, b; positive inside."""
    if form == "rectangle":
        return np.minimum(a - np.abs(u), b - np.abs(v))
    if form == "triangle":  # apex up
        return np.minimum((a * (v + b) - 2 * b * np.abs(u)) / np.hypot(2 * b, a), b - v)
    length = np.hypot(u, v) + 1e-6  # circle, irregular: along the ray from the centre
    radius = length / np.maximum(np.hypot(u / a, v / b), 1e-6 / min(a, b))
    if form == "irregular":
        radius = radius * _outline(wobble)[(np.arctan2(v, u) * (256 / np.pi)).astype(int)]
    return radius - length


def _outline(wobble: np.ndarray | None) -> np.ndarray:
    """A closed wavy outline: radius in 0.35..1 at 512 angles, indexed from -256 to 256."""
    theta = np.arange(512) * (np.pi / 256)
    waves = np.arange(1, 6)[:, None] * theta
    wobble = np.zeros((2, 5)) if wobble is None else wobble / (1 + np.arange(5))
    radius = wobble[0] @ np.cos(waves) + wobble[1] @ np.sin(waves)
    low, span = radius.min(), np.ptp(radius)
    return (1 - 0.55 * (1 - (radius - low) / max(span, 1e-6))).astype(np.float32)
