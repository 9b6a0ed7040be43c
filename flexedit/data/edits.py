"""Any data set to train on: squares cut out of its pictures, and scribbles where it has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .. import masks
from ..errors import FlexEditError
from ..models.preprocess import CLIP_MEAN
from .order import WINDOW, Draw, Pattern
from .readers import reader_from
from .readers.index import INDEX, PAINT
from .readers.reader import Reader, Row
from .sample import Sample
from .sayings import segment_instruction
from .world.objects import paint_color
from .world.words import caption, pick
from .world.world import FULL_MASK, choose_kind

__all__ = ["INDEX", "Edits"]

Box = tuple[int, int, int, int]  # left, top, right, bottom

MAX_BAD = 100  # rows of a data set that may be of no use
# what a row of a data set raises that lacks something, or has it in another form
MALFORMED = (LookupError, TypeError, ValueError, AttributeError)
SHOWN = 20  # of which a message says why


class Edits:
    """An endless sequence of samples: `edits[index]`, all rows in another order each time round.

    Every sample is a square of ``size`` pixels a side, cut so that the mask is in it; the subject
    is whole. A row without a mask gets another scribble over its object each time: one of the
    kinds, a random walk, or the object itself.

    The place of a bad row is taken by the next good one, which says so in ``skipped``; more than
    ``max_bad`` in a row stop. Readers that do not expect bad rows let none pass.
    """

    def __init__(
        self, source: str | Path | Reader, size: int, seed: int = 0, max_bad: int = MAX_BAD
    ) -> None:
        """source: a folder with an index, another data set as `reader_from` reads it, or a reader.

        Raises FlexEditError for what is no data set.
        """
        self.reader = reader_from(str(source)) if isinstance(source, str | Path) else source
        self.name, self.size, self.seed = self.reader.name, size, seed
        self.rows = self.reader.rows
        if not len(self.rows):
            raise FlexEditError(f"{self.name} has no row that anything could be learned from.")
        self.max_bad = max_bad if self.reader.skips else 0
        self.pattern = Pattern([1], [len(self.rows)], seed)

    def seeded(self, seed: int) -> Edits:
        """The same rows in another order, with other scribbles."""
        return Edits(self.reader, self.size, seed, self.max_bad)

    @property
    def origin(self) -> tuple[Sequence[Path], str]:
        """Files and words that tell this data from other data"""
        return self.reader.files, self.reader.identity

    def __getitem__(self, index: int) -> Sample:
        return self.draw(self.pattern[index], index)

    def draw(self, draw: Draw, index: int) -> Sample:
        """The sample of a draw; ``index`` is what its dice are thrown by."""
        rng = np.random.default_rng([self.seed, index])
        skipped: dict[str, str] = {}
        for row, turn in self._candidates(draw):
            try:
                sample = square_sample(self.reader.read(row, turn), self.size, rng)
            except OSError as error:
                raise FlexEditError(
                    f"{self.name}, {row.where} can no longer be read ({error}). Is its disk still "
                    "there? Run it again when it is."
                ) from error
            except (FlexEditError, *MALFORMED) as error:
                if not self.reader.skips and isinstance(error, MALFORMED):
                    raise
                skipped[row.where] = str(error) if isinstance(error, FlexEditError) else repr(error)
                if len(skipped) > self.max_bad:
                    break
            else:
                return replace(sample, source=self.name, skipped=tuple(skipped.items()))
        raise FlexEditError(said_of(skipped))

    def _candidates(self, draw: Draw) -> Iterator[tuple[Row, int]]:
        """The row whose turn it is, and which turn that is; then those that stand in for it."""
        lane = draw.stretch(len(self.rows)) if self.reader.streams else range(len(self.rows))
        number = draw.place if self.reader.streams else draw.number
        turn, place = divmod(number, len(lane))
        for step in range(len(lane)):
            nth = (place + step) % len(lane)
            if self.reader.streams:
                window = lane[nth - nth % WINDOW :][:WINDOW]
                self.reader.expect(window)
                nth = order(self.seed + window.start, turn, len(window))[nth % WINDOW]
                yield self.rows[window[nth]], turn
            else:
                yield self.rows[order(self.seed, turn, len(lane))[nth]], turn


def said_of(bad: Mapping[str, str]) -> str:
    """A sentence on bad rows, why by where."""
    shown = [f"{where}: {why}" for where, why in list(bad.items())[:SHOWN]]
    if len(bad) == 1:
        return shown[0]
    more = f" … and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"{len(bad)} bad rows: {'; '.join(shown)}{more}."


@lru_cache(maxsize=64)
def order(seed: int, turn: int, count: int) -> np.ndarray:
    """In which order a turn walks through the rows."""
    return np.random.default_rng([seed, turn, count]).permutation(count)


def square_sample(sample: Sample, size: int, rng: np.random.Generator) -> Sample:
    """A square of a sample with pictures of any size, as (size, size), with a scribble and, to
    segment, a target.
    """
    meant = sample.object_mask if sample.mask is None else sample.mask
    box = square(np.ones(sample.scene.shape[:2], bool) if meant is None else meant, rng)

    def share(mask: np.ndarray | None) -> np.ndarray | None:
        return None if mask is None else shrink_mask(mask, box, size)

    scene = shrink(sample.scene, box, size)
    object_mask, region = certain(share(sample.object_mask)), certain(share(sample.region))
    mask, kind, rotation = share(sample.mask), sample.kind, sample.rotation
    if mask is None and object_mask is not None:
        kind, mask = choose_kind(rng), object_mask
        if kind != FULL_MASK:
            near = around(sample.object_mask)
            others = [
                certain(share(other)) & ~object_mask for other in sample.others if other[near].any()
            ]
            mask, rotation = masks.turned_scribble(kind, object_mask, rng, others)
    target = None if sample.target is None else shrink(sample.target, box, size)
    if target is None and sample.task == "segment":
        region = np.zeros(scene.shape[:2], bool) if object_mask is None else object_mask
        sample, target = segmented(sample, scene, region, rng)
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


def segmented(
    sample: Sample, scene: np.ndarray, object_mask: np.ndarray, rng: np.random.Generator
) -> tuple[Sample, np.ndarray]:
    """Segmentation as an edit: what is to be said, and the scene with its object painted.

    Of a sample with an expression it is one of our colours, laid over it by half as SmartEdit does,
    and asked for in one of several ways and languages; else all of it is red, as it says itself.
    """
    color, opacity = PAINT, 1.0
    if sample.expression is not None:
        color, opacity = pick(tuple(masks.COLORS), rng), 0.5
        words = segment_instruction(sample.expression, color, rng)
        sample = replace(
            sample,
            instruction=f"{sample.instruction} {words}".strip(),
            caption=caption("segment", old=sample.label or sample.expression, color=color),
        )
    target = scene.copy()
    painted = opacity * paint_color(color) + (1 - opacity) * target[object_mask]
    target[object_mask] = np.rint(painted).astype(np.uint8)
    return sample, target


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


def around(mask: Any) -> tuple[slice, slice]:
    """The box of a mask (H, W), as large again on every side: no scribble of it goes farther"""
    (top, bottom), (left, right) = masks.extent(mask, 1), masks.extent(mask, 0)
    height, width = bottom - top, right - left
    return (
        slice(max(0, top - height), bottom + height),
        slice(max(0, left - width), right + width),
    )


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
