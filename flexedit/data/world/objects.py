"""Objects: how one looks, and how it is drawn into a picture.

While a picture is composed it is float32 (3, H, W) in 0..255, colours premultiplied with alpha.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ... import masks
from .assets import MIP_BORDER, MIP_SIZES, mipmap
from .backgrounds import column

LUMINANCE = np.array([0.3, 0.59, 0.11], np.float32)
FAINT = 8  # alpha below this is cleared: an edge nobody sees does not belong to a region


@dataclass(frozen=True)
class Look:
    """How one object is drawn; `size` is the sprite's longer side as a fraction of the picture."""

    label: int
    style: str
    variant: int = 0
    size: float = 0.4
    angle: float = 0.0
    flip: bool = False
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Layer:
    """A drawn object, cut to the picture: premultiplied colour (3, h, w) and alpha (h, w)."""

    look: Look
    color: np.ndarray  # float32, 0..255
    alpha: np.ndarray  # float32, 0..1
    top: int
    left: int

    @property
    def window(self) -> tuple:
        height, width = self.alpha.shape
        return np.s_[..., self.top : self.top + height, self.left : self.left + width]

    @property
    def solid(self) -> np.ndarray:
        return self.alpha > 0.5


def canonical(label: int, size: float) -> Look:
    """The one pose in which an object is drawn that was only named."""
    return Look(label, "fluent", size=size)


def upright(look: Look, size: float) -> Look:
    return replace(look, size=size, angle=0.0)


def draw(look: Look, size: int) -> np.ndarray:
    """A sprite in its look, premultiplied RGBA float32 (4, h, w) cut to what is visible."""
    length = max(2.0, look.size * size)
    mip = min((m for m in MIP_SIZES if m >= length), default=MIP_SIZES[0])
    sprite = mipmap(look.style, look.label, look.variant, mip)
    theta = np.deg2rad(look.angle)
    cos, sin = float(np.cos(theta)) * mip / length, float(np.sin(theta)) * mip / length
    side = int(np.ceil(length * (abs(np.cos(theta)) + abs(np.sin(theta))))) + 2
    middle, half = mip / 2 + MIP_BORDER, side / 2
    if look.flip:
        across = (-cos, -sin, middle + (cos + sin) * half)
    else:
        across = (cos, sin, middle - (cos + sin) * half)
    down = (-sin, cos, middle + (sin - cos) * half)
    drawn = sprite.transform(
        (side, side), Image.Transform.AFFINE, across + down, Image.Resampling.BILINEAR
    )
    left, top, right, bottom = drawn.getbbox() or (0, 0, side, side)
    picture = np.frombuffer(drawn.tobytes("raw", "RGBa"), np.uint8).reshape(side, side, 4)
    picture = picture[top:bottom, left:right].transpose(2, 0, 1).astype(np.float32, order="C")
    picture *= picture[3] >= FAINT
    picture[:3] *= column(look.light)
    np.minimum(picture[:3], picture[3], out=picture[:3])
    return picture


def at(
    look: Look, picture: np.ndarray, center: tuple[float, float] | np.ndarray, size: int
) -> Layer:
    """A drawn object with the centre of its box at `center` (y, x), in pixels."""
    height, width = picture.shape[1:]
    top, left = round(center[0] - height / 2), round(center[1] - width / 2)
    picture = picture[:, max(-top, 0) : size - top, max(-left, 0) : size - left]
    return Layer(look, picture[:3], picture[3] / 255, max(top, 0), max(left, 0))


def compose(backdrop: np.ndarray, layers: Iterable[Layer]) -> np.ndarray:
    """backdrop float32 (3, H, W) with the layers over it, uint8 (H, W, 3)"""
    canvas = backdrop + np.float32(0.5)  # so that the cast rounds
    for layer in layers:
        window = canvas[layer.window]
        window *= 1 - layer.alpha
        window += layer.color
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 0))


def footprint(layers: Sequence[Layer], index: int, size: int) -> np.ndarray:
    """Where layer `index` can be seen at all, (H, W) bool."""
    seen = np.zeros((size, size), bool)
    seen[layers[index].window] = layers[index].alpha > 0
    for above in layers[index + 1 :]:
        seen[above.window] &= above.alpha < 1
    return seen


def owner_map(layers: Sequence[Layer], size: int) -> np.ndarray:
    """Which layer is seen where: (H, W) uint8, 0 or 1 + its index; later ones are in front."""
    owner = np.zeros((size, size), np.uint8)
    for number, layer in enumerate(layers, 1):
        owner[layer.window][layer.solid] = number
    return owner


def class_map(owner: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """owner (H, W), 0 or 1 + index of the layer → uint8, 0 or 1 + index of its class"""
    return np.array([0] + [1 + layer.look.label for layer in layers], np.uint8)[owner]


def box_of(mask: np.ndarray) -> tuple[tuple[float, float], int]:
    """Centre (y, x) and longer side of the box around a mask, in pixels."""
    (top, bottom), (left, right) = masks.extent(mask, 1), masks.extent(mask, 0)
    return ((top + bottom) / 2, (left + right) / 2), max(bottom - top, right - left)


def paint_color(name: str) -> np.ndarray:
    """A colour of the palette as three numbers in 0..255."""
    return np.array(masks.COLORS[name], np.float32) * 255


def recolored(layer: Layer, rng: np.random.Generator) -> tuple[str, Layer]:
    """The layer in a colour it does not have yet, with its shading kept, and the colour's name."""
    alpha = layer.alpha
    mean = layer.color.sum((1, 2)) / max(float(alpha.sum()), 1.0)
    brightness = min(1.0, float(mean @ LUMINANCE) / 180)
    far = [n for n in masks.COLORS if np.abs(paint_color(n) * brightness - mean).max() > 50]
    name = (far or list(masks.COLORS))[rng.integers(len(far or masks.COLORS))]
    light = np.tensordot(LUMINANCE, layer.color, 1)
    full = max(30.0, float(np.percentile(light[layer.solid], 90)))
    shade = np.minimum(0.25 * alpha + 0.75 * light / full, alpha)
    return name, replace(layer, color=shade * column(paint_color(name)))
