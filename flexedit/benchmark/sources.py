"""Where cases come from: a source makes a sample, pictures and words, for every slot of the plan.

The synthetic world makes whatever a slot asks for. The rows of a data set are handed out as evenly
as they can be, with free shapes drawn over their masks. H × W the size of a scene
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from .. import masks
from ..data.readers.reader import Reader, Row
from ..data.sample import Sample
from ..data.world import World
from ..errors import FlexEditError

SUBJECT_SETTINGS = ("simple", "complex")
WORLDS_NAME = {
    ("single", "add"): "add",
    ("single", "replace"): "replace",
    ("single", "remove"): "remove",
    ("multi", "add"): "insert",
    ("multi", "replace"): "swap",
}


@dataclass(frozen=True)
class Slot:
    """A case that is wished for. Group and kind are kept; the rest only if the source can."""

    group: str
    kind: str
    operation: str
    subject_setting: str | None


class Source(Protocol):
    name: str

    def samples(self, slots: Sequence[Slot], seed: int) -> Iterator[Sample]:
        """One with a name, a mask and a target for each slot, in order; the same for one seed."""

    def describe(self) -> dict[str, Any]:
        """What ``benchmark.json`` shall say about the source, once the samples are made."""


class WorldSource:
    """Held-out samples of the synthetic world, ``size`` pixels a side. The truth is exact.

    style: of the objects, by default all that models are trained on. FlexEditError for an unknown
    """

    name = "world"
    STRIDE = 1_000_000  # between the samples that are tried for one slot: no two slots share one

    def __init__(self, size: int = 64, style: str | None = None, framing: str = "whole") -> None:
        self.size, self.style, self.framing = size, style, framing
        self._world()  # refuses a size, style or framing that there is not

    def _world(self, seed: int = 0, **wanted: Any) -> World:
        styles = None if self.style is None else [self.style]
        return World(self.size, "heldout", seed, styles=styles, framing=self.framing, **wanted)

    def describe(self) -> dict[str, Any]:
        styled = {} if self.style is None else {"style": self.style}
        framed = {} if self.framing == "whole" else {"framing": self.framing}
        return {"split": "heldout", "size": self.size, **styled, **framed}

    def samples(self, slots: Sequence[Slot], seed: int) -> Iterator[Sample]:
        for number, slot in enumerate(slots):
            sample = self._sample(slot, seed, number)
            region = (sample.scene != sample.target).any(-1)
            yield replace(sample, name=f"{slot.group}-{number:03d}", region=region)

    def _sample(self, slot: Slot, seed: int, number: int) -> Sample:
        operation = WORLDS_NAME[slot.group, slot.operation]
        world = self._world(seed, operations={operation: 1.0}, kinds=[slot.kind])
        tried = (world[index] for index in itertools.count(number, self.STRIDE))
        sample = next(
            sample
            for sample in tried
            if sample.rotation is not None and sample.subject_setting == slot.subject_setting
        )
        return replace(sample, operation=slot.operation)


class ReaderSource:
    """Rows of a data set, each at most once, with free shapes over their objects."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.name = reader, reader.name
        self.skipped: dict[str, str] = {}  # why a row was of no use

    def describe(self) -> dict[str, Any]:
        skipped = {"skipped": self.skipped} if self.skipped else {}
        return {**self.reader.describe(), **skipped}

    def samples(self, slots: Sequence[Slot], seed: int) -> Iterator[Sample]:
        rows = [row for row in self.reader.rows if row.operation]
        self.skipped = {}
        wanted, there = (Counter(each.group for each in many) for many in (slots, rows))
        for group, count in wanted.items():
            if there[group] < count:
                raise self._too_few(group, count, there[group])
        pool = Pool(rows, seed)
        for slot in slots:
            sample = None
            while sample is None:
                if (row := pool.take(slot)) is None:
                    raise self._too_few(slot.group, wanted[slot.group], there[slot.group])
                try:
                    sample = self._sample(row, slot.kind, seed)
                except FlexEditError as error:
                    if not self.reader.skips:
                        raise FlexEditError(f"{row.where}: {error}") from error
                    self.skipped[row.where] = str(error)
            yield sample

    def _sample(self, row: Row, kind: str, seed: int) -> Sample:
        sample = self.reader.read(row)
        assert sample.object_mask is not None
        dice = np.random.default_rng([seed, *row.key])
        mask, rotation = shape_over(kind, sample.object_mask, dice, sample.others)
        return replace(sample, mask=mask, kind=kind, rotation=rotation)

    def _too_few(self, group: str, wanted: int, there: int) -> FlexEditError:
        having = "with a subject" if group == "multi" else "without a subject"
        reasons = [f"{row}: {reason}" for row, reason in self.skipped.items()][:3]
        useless = f", of which {len(self.skipped)} could not be used ({'; '.join(reasons)})"
        return FlexEditError(
            f"{self.name} has {there} edits {having}{useless if reasons else ''}, but {wanted} "
            f"{group} cases are asked for. Ask for fewer or add rows."
        )


class Pool:
    """Rows in random order, each handed out once, with the wished operation while that lasts."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        self._left: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for index in np.random.default_rng(seed).permutation(len(rows)):
            row = rows[index]
            self._left[row.group, row.operation].append(row)

    def take(self, slot: Slot) -> Row | None:
        """None when the slot's group has no row left."""
        of_group = (rows for (group, _), rows in self._left.items() if group == slot.group)
        most = max(of_group, key=len, default=[])
        rows = self._left.get((slot.group, slot.operation)) or most
        return rows.pop() if rows else None


def shape_over(
    kind: str,
    object_mask: np.ndarray,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, float]:
    """A free shape (H, W) that means object_mask rather than any of the others, and its turn.

    An object that is within or in front of a far larger one is covered as if it stood alone.
    Raises FlexEditError for an object on which the shape cannot be drawn.
    """
    rivals = [other & ~object_mask for other in others]
    for against in (rivals, ()):
        for _ in range(4):
            mask, rotation = masks.turned_scribble(kind, object_mask, rng, against)
            if rotation is not None:
                return mask, rotation
    raise FlexEditError(
        f"no {kind} covers a fair part of the object of {np.count_nonzero(object_mask)} pixels; "
        "leave this row out"
    )
