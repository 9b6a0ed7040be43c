"""Where cases come from: a source makes a draft, pictures and words, for every slot of the plan.

The synthetic world makes whatever a slot asks for. A source of given rows (:mod:`.coco`,
:mod:`.magicbrush`) hands them out as evenly as it can and draws free shapes over their masks.
H × W the size of a scene
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from scipy import ndimage

from .. import masks
from ..data.world import Sample, World
from ..errors import FlexEditError

CHANGED = 0.08  # of the full range: less, in a pixel or on average around it, is noise
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


@dataclass(frozen=True)
class Draft:
    """A case that is not written yet; the fields mean what they mean in a ``Case``."""

    name: str  # unique in the source
    operation: str
    orientation: float
    setting: str
    scene: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) bool
    full_mask: np.ndarray  # (H, W) bool
    truth: np.ndarray  # (H, W, 3) uint8
    region: np.ndarray  # (H, W) bool
    instruction: str
    label: str
    result_label: str
    subject: np.ndarray | None = None  # (h, w, 3) uint8
    subject_setting: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A row of a published data set that is of no use."""

    row: str
    because: str


class Source(Protocol):
    name: str

    def describe(self) -> dict[str, Any]:
        """What ``benchmark.json`` shall say about the source."""

    def drafts(self, slots: Sequence[Slot], seed: int) -> Iterator[Draft | Skipped]:
        """One draft for each slot, in order; the same seed gives the same drafts."""


class WorldSource:
    """Held-out samples of the synthetic world, ``size`` pixels a side. The truth is exact.

    style: of the objects, by default all that models are trained on. FlexEditError for an unknown
    """

    name = "world"
    STRIDE = 1_000_000  # between the samples that are tried for one slot: no two slots share one

    def __init__(self, size: int = 64, style: str | None = None) -> None:
        self.size, self.style = size, style
        self._world()  # refuses a size or style that there is not

    def _world(self, seed: int = 0, **wanted: Any) -> World:
        styles = None if self.style is None else [self.style]
        return World(self.size, "heldout", seed, styles=styles, **wanted)

    def describe(self) -> dict[str, Any]:
        styled = {} if self.style is None else {"style": self.style}
        return {"split": "heldout", "size": self.size, **styled}

    def drafts(self, slots: Sequence[Slot], seed: int) -> Iterator[Draft]:
        for number, slot in enumerate(slots):
            yield self._draft(slot, seed, number)

    def _sample(self, slot: Slot, seed: int, number: int) -> Sample:
        operation = WORLDS_NAME[slot.group, slot.operation]
        world = self._world(seed, operations={operation: 1.0}, kinds=[slot.kind])
        tried = (world[index] for index in itertools.count(number, self.STRIDE))
        return next(
            sample
            for sample in tried
            if sample.rotation is not None and sample.subject_setting == slot.subject_setting
        )

    def _draft(self, slot: Slot, seed: int, number: int) -> Draft:
        sample = self._sample(slot, seed, number)
        assert sample.rotation is not None and sample.target is not None
        return Draft(
            name=f"{slot.group}-{number:03d}",
            operation=slot.operation,
            orientation=sample.rotation,
            setting=sample.setting,
            scene=sample.scene,
            mask=sample.mask,
            full_mask=sample.object_mask,
            truth=sample.target,
            region=(sample.scene != sample.target).any(-1),
            instruction=sample.instruction,
            label=sample.label,
            result_label=sample.result_label,
            subject=sample.subject,
            subject_setting=sample.subject_setting,
        )


# Sources of given rows


class Row(Protocol):
    @property
    def group(self) -> str: ...

    @property
    def operation(self) -> str: ...


AnyRow = TypeVar("AnyRow", bound=Row)


class Pool(Generic[AnyRow]):
    """Rows in random order, each handed out once, with the wished operation while that lasts."""

    def __init__(self, rows: Sequence[AnyRow], seed: int) -> None:
        self._left: dict[tuple[str, str], list[AnyRow]] = defaultdict(list)
        for index in np.random.default_rng(seed).permutation(len(rows)):
            row = rows[index]
            self._left[row.group, row.operation].append(row)

    def take(self, slot: Slot) -> AnyRow | None:
        """None when the slot's group has no row left."""
        of_group = (rows for (group, _), rows in self._left.items() if group == slot.group)
        most = max(of_group, key=len, default=[])
        rows = self._left.get((slot.group, slot.operation)) or most
        return rows.pop() if rows else None


def require(slots: Iterable[Slot], rows: Iterable[Row], where: str | Path) -> None:
    """Raises FlexEditError where a group has fewer rows than slots."""
    wanted, found = (Counter(one.group for one in many) for many in (slots, rows))
    for group, having in (("single", "without a subject"), ("multi", "with a subject")):
        if found[group] < wanted[group]:
            raise FlexEditError(
                f"{where} has {found[group]} edits {having} that can be used, but {wanted[group]} "
                f"{group} cases are asked for. Ask for fewer or add rows."
            )


def shape_over(
    kind: str,
    full_mask: np.ndarray,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, float]:
    """A free shape (H, W) that means full_mask rather than any of the others, and its turn.

    An object that is within or in front of a far larger one is covered as if it stood alone.
    Raises FlexEditError for an object on which the shape cannot be drawn.
    """
    rivals = [other & ~full_mask for other in others]
    for against in (rivals, ()):
        for _ in range(4):
            mask, rotation = masks.turned_scribble(kind, full_mask, rng, against)
            if rotation is not None:
                return mask, rotation
    raise FlexEditError(
        f"no {kind} covers a fair part of the object of {np.count_nonzero(full_mask)} pixels; "
        "leave this row out"
    )


def edited_region(scene: np.ndarray, truth: np.ndarray, full_mask: np.ndarray) -> np.ndarray:
    """full_mask joined with wherever two pictures (H, W, 3) uint8 really differ, bool (H, W).

    What a lossy file or a VAE does to a pixel does not count as a difference. Raises FlexEditError
    for pictures of two sizes or without a difference.
    """
    if scene.shape != truth.shape:
        raise FlexEditError(
            f"the edited picture is {truth.shape[1]}×{truth.shape[0]} pixels, the other one "
            f"{scene.shape[1]}×{scene.shape[0]}; bring it to that size"
        )
    change = np.abs(scene.astype(np.float32) - truth).max(-1) / 255
    around = ndimage.uniform_filter(change, 3, mode="nearest") > CHANGED
    region = (change > CHANGED) & ndimage.binary_opening(around, np.ones((3, 3)))
    if not region.any():
        raise FlexEditError("the edited picture shows no change; leave this row out")
    return region | full_mask
