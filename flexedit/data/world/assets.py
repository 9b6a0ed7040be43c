"""The vendored sprites and photographs, loaded on first use; `sources.json` says whose they are."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ASSETS = Path(__file__).parent / "assets"

CLASSES = (
    "apple", "banana", "carrot", "strawberry", "mushroom", "pizza", "burger", "cake", "ice cream",
    "dog", "cat", "rabbit", "horse", "elephant", "bear", "turtle", "fish", "butterfly", "duck",
    "penguin", "car", "bus", "train", "bicycle", "airplane", "rocket", "sailboat", "guitar", "key",
    "light bulb", "umbrella", "chair", "clock", "balloon", "ball", "flower",
)  # fmt: skip

MIP_SIZES = (96, 68, 48, 34, 24, 17)  # sprites are pre-shrunk so that bilinear sampling suffices
MIP_BORDER = 2
ZOOMS = (1.0, 1.4, 2.0, 2.8)


@cache
def sources() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ASSETS / "sources.json").read_text(encoding="utf-8"))
    return found


@cache
def all_styles(split: str | None = None) -> tuple[str, ...]:
    """The emoji styles, all or those of "train" or "heldout"."""
    return tuple(s["name"] for s in sources()["styles"] if split in (None, s["split"]))


@cache
def sprite_count(style: str, label: int) -> int:
    """How many sprites a style has of a class; the first is the canonical one."""
    return len(sources()["sprites"][style].get(CLASSES[label], ()))


@cache
def mipmap(style: str, label: int, variant: int, size: int) -> Image.Image:
    """A sprite `size` pixels wide inside a transparent border, premultiplied RGBa.

    `size` is one of MIP_SIZES.
    """
    name = sources()["sprites"][style][CLASSES[label]][variant]
    sprite = Image.open(ASSETS / "sprites" / style / name).convert("RGBA").convert("RGBa")
    bordered = Image.new("RGBa", (size + 2 * MIP_BORDER,) * 2)
    shrunk = sprite.resize(
        (size, size), Image.Resampling.BOX if size > 90 else Image.Resampling.LANCZOS
    )
    bordered.paste(shrunk, (MIP_BORDER, MIP_BORDER))
    return bordered


@cache
def photo_names(split: str) -> tuple[str, ...]:
    return tuple(n for n, source in sources()["backgrounds"].items() if source["split"] == split)


def photo_setting(name: str) -> str:
    """Where a photograph was taken: "indoor", "outdoor", or "none" for a mere texture."""
    setting: str = sources()["backgrounds"][name]["setting"]
    return setting


@lru_cache(maxsize=256)
def photo_scales(name: str, size: int) -> tuple[np.ndarray, ...]:
    """A photograph uint8 (C, H, W) whose shorter side is ZOOMS × `size`; C is 1 for grey ones."""
    photo = Image.open(ASSETS / "backgrounds" / name)
    scales = []
    for zoom in ZOOMS:
        scale = round(zoom * size) / min(photo.size)
        width, height = (round(side * scale) for side in photo.size)
        picture = photo.resize((width, height), Image.Resampling.LANCZOS)
        array = np.asarray(picture).reshape(height, width, -1).transpose(2, 0, 1)
        scales.append(np.ascontiguousarray(array))
    return tuple(scales)
