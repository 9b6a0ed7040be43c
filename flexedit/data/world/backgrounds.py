"""What objects stand on: photographs and textures, float32 (3, size, size) in 0..255.

The two splits share no photograph and no noise.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from .assets import photo_names, photo_scales, photo_setting

SPLITS = ("train", "heldout")


class Backdrop(NamedTuple):
    picture: np.ndarray  # (3, size, size)
    setting: str  # "indoor" or "outdoor" for a photograph of a place, else "none"
    plain: bool  # one colour or a gradient: nothing to be seen


def background(size: int, split: str, rng: np.random.Generator) -> Backdrop:
    """A photograph or a texture in some light."""
    drawn = photograph(size, split, rng) if rng.random() < 0.55 else texture(size, split, rng)
    gain = rng.uniform(0.7, 1.2) * rng.uniform(0.92, 1.08, 3)
    return drawn._replace(picture=np.minimum(drawn.picture * column(gain), 255))


def photograph(size: int, split: str, rng: np.random.Generator) -> Backdrop:
    """A piece of a photograph of the split, maybe mirrored; grey ones are tinted."""
    names = photo_names(split)
    name = names[rng.integers(len(names))]
    scales = photo_scales(name, size)
    photo = scales[rng.integers(len(scales))]
    top = int(rng.integers(photo.shape[1] - size + 1))
    left = int(rng.integers(photo.shape[2] - size + 1))
    crop = photo[:, top : top + size, left : left + size]
    if rng.random() < 0.5:
        crop = crop[:, :, ::-1]
    if len(crop) == 1:
        crop = crop * column(rng.uniform(0.5, 1.3, 3))
    return Backdrop(crop, photo_setting(name), plain=False)


def texture(size: int, split: str, rng: np.random.Generator) -> Backdrop:
    """Two or three colours mixed by a gradient, noise, stripes, checks or dots."""
    low, high = rng.uniform(20, 250, (2, 3))
    form = rng.integers(6)
    if form == 0:
        return Backdrop(plain_backdrop(size, rng), "none", plain=True)
    if form <= 2:
        fields = noise_fields(size, split)
        field = fields[rng.integers(len(fields))]
        top, left = rng.integers(size, size=2)
        amount = field[top : top + size, left : left + size]
        if rng.random() < 0.4:  # shades of one colour
            high = low + rng.uniform(-45, 45)
    else:
        theta, count = rng.uniform(0, np.pi), rng.uniform(2, 7)
        amount = wave(size, theta, count, rng)
        if form == 4:  # checks
            amount = amount * wave(size, theta + np.pi / 2, count, rng)
        elif form == 5:  # dots
            amount = amount + wave(size, theta + np.pi / 2, count, rng) - 0.7
        amount = np.clip(amount * rng.uniform(1, 6) + 0.5, 0, 1)
        if rng.random() < 0.5:
            high = low + rng.uniform(-70, 70)
    picture = np.clip(column(low) + column(high - low) * amount.astype(np.float32), 0, 255)
    return Backdrop(picture, "none", plain=False)


def wave(size: int, theta: float, count: float, rng: np.random.Generator) -> np.ndarray:
    """`count` waves across the picture in direction theta, -1..1 (size, size)"""
    phase = 2j * np.pi * count / size * np.arange(size)
    down = np.exp(phase * np.sin(theta) + 1j * rng.uniform(0, 6)).astype(np.complex64)
    return (down[:, None] * np.exp(phase * np.cos(theta)).astype(np.complex64)).imag


def plain_backdrop(size: int, rng: np.random.Generator) -> np.ndarray:
    """One colour, or a gradient between two."""
    low, high = rng.uniform(20, 255, (2, 3))
    if rng.random() < 0.4:
        return np.broadcast_to(column(low), (3, size, size))
    theta = rng.uniform(0, 2 * np.pi)
    grid = np.arange(size, dtype=np.float32) / size - np.float32(0.5)
    amount = 0.5 + 0.7 * (np.cos(theta) * grid[None] + np.sin(theta) * grid[:, None])
    return column(low) + column(high - low) * np.clip(amount, 0, 1).astype(np.float32)


@lru_cache(maxsize=8)
def noise_fields(size: int, split: str) -> tuple[np.ndarray, ...]:
    """Smooth noise (2 size, 2 size) in 0..1, from cloudy to grainy."""
    rng = np.random.default_rng([SPLITS.index(split), 7])
    fields = []
    for index in range(24):
        field = np.zeros((2 * size, 2 * size), np.float32)
        for octave in range(5):
            cells = Image.fromarray(rng.random((4 << octave, 4 << octave), np.float32))
            layer = np.asarray(cells.resize((2 * size, 2 * size), Image.Resampling.BICUBIC))
            field += layer * (0.45 + 0.025 * index) ** octave
        low, high = np.percentile(field, (2, 98))
        fields.append(np.clip((field - low) / (high - low), 0, 1))
    return tuple(fields)


def column(color: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """Three numbers that broadcast over (3, H, W)."""
    return np.asarray(color, np.float32)[:, None, None]
