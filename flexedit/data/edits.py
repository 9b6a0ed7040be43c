"""Any data set to train on: squares cut out of its pictures, and scribbles where it has none."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .. import masks
from ..errors import FlexEditError
from ..models.preprocess import CLIP_MEAN
from .readers import reader_from
from .readers.index import INDEX, PAINT
from .readers.reader import Reader
from .sample import Sample
from .world.objects import paint_color
from .world.world import FULL_MASK, choose_kind

__all__ = ["INDEX", "Edits"]

Box = tuple[int, int, int, int]  # left, top, right, bottom


class Edits:
    """An endless sequence of samples: `edits[index]`, all rows in another order each time round.

    Every sample is a square of ``size`` pixels a side, cut so that the mask is in it; the subject
    is whole. A row without a mask gets another scribble over its object each time: one of the
    kinds, a random walk, or the object itself.
    """

    def __init__(self, source: str | Path | Reader, size: int, seed: int = 0) -> None:
        """source: a folder with an index, another data set as `reader_from` reads it, or a reader.

        Raises FlexEditError for what is no data set.
        """
        self.reader = reader_from(str(source)) if isinstance(source, str | Path) else source
        self.size, self.seed = size, seed
        self.rows = self.reader.rows

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        return square_sample(self._read(index), self.size, rng)

    def _read(self, index: int) -> Sample:
        """The row whose turn it is; if it is of no use and may be passed over, the next that is."""
        turn, place = divmod(index, len(self.rows))
        rows = np.roll(order(self.seed, turn, len(self.rows)), -place)
        for row in (self.rows[number] for number in rows):
            try:
                return self.reader.read(row)
            except FlexEditError as error:
                problem = FlexEditError(f"{row.where}: {error}")
                if not self.reader.skips:
                    break
        raise problem


@lru_cache(maxsize=2)
def order(seed: int, turn: int, count: int) -> np.ndarray:
    """In which order a turn walks through the rows."""
    return np.random.default_rng([seed, turn, count]).permutation(count)


def square_sample(sample: Sample, size: int, rng: np.random.Generator) -> Sample:
    """A square of a sample with pictures of any size, as (size, size), with a scribble and, to
    segment, a target.
    """
    meant = sample.object_mask if sample.mask is None else sample.mask
    assert meant is not None
    box = square(meant, rng)

    def share(mask: np.ndarray | None) -> np.ndarray | None:
        return None if mask is None else shrink_mask(mask, box, size)

    scene = shrink(sample.scene, box, size)
    object_mask, region = certain(share(sample.object_mask)), certain(share(sample.region))
    mask, kind, rotation = share(sample.mask), sample.kind, sample.rotation
    if mask is None:
        kind, mask = choose_kind(rng), object_mask
        if kind != FULL_MASK:
            others = [certain(share(other)) & ~object_mask for other in sample.others]
            mask, rotation = masks.turned_scribble(kind, object_mask, rng, others)
    target = None if sample.target is None else shrink(sample.target, box, size)
    if target is None and sample.task == "segment":
        target, region = scene.copy(), object_mask
        target[object_mask] = paint_color(PAINT)
    return replace(
        sample,
        scene=scene,
        mask=mask,
        kind=kind,
        rotation=rotation,
        subject=None if sample.subject is None else whole(sample.subject, size),
        target=target,
        region=region,
        object_mask=object_mask,
        others=(),
    )


def square(mask: np.ndarray, rng: np.random.Generator) -> Box:
    """The largest square, anywhere along the longer side where the mask (H, W) is in it; around
    one of its pixels if it is too long for that.
    """
    side = min(mask.shape)
    starts = []
    for axis, length in enumerate(mask.shape):
        begin, end = masks.extent(mask, 1 - axis)
        first, last = max(0, end - side), min(begin, length - side)
        if first > last:
            pixel = rng.choice(np.flatnonzero(mask.any(1 - axis)))
            first = last = min(max(0, int(pixel) - side // 2), length - side)
        starts.append(int(rng.integers(first, last + 1)))
    top, left = starts
    return left, top, left + side, top + side


def shrink(picture: np.ndarray, box: Box, size: int) -> np.ndarray:
    """What is in the box of a picture (H, W, 3) uint8, as (size, size, 3)"""
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image)


def shrink_mask(mask: np.ndarray, box: Box, size: int) -> np.ndarray:
    """What is in the box of a mask (H, W) bool, as (size, size) float32: a line that is thinner
    than a pixel stays, but faint.
    """
    image = Image.fromarray(mask.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))


def certain(share: np.ndarray | None) -> Any:
    """A share of every pixel (H, W) → bool: where it is half, or else the most that there is."""
    return None if share is None else (share > 0) & (share >= min(0.5, share.max()))


def whole(picture: np.ndarray, size: int) -> np.ndarray:
    """A whole picture (H, W, 3) uint8 as (size, size, 3), padded as `Preprocess` would."""
    color = tuple(round(255 * mean) for mean in CLIP_MEAN)
    image = Image.fromarray(picture)
    return np.asarray(ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS, color=color))
