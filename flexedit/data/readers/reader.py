"""What every reader of a data set can do. H × W the size of a scene"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ...errors import FlexEditError
from ..sample import Sample

CHANGED = 0.08  # of the full range: less, in a pixel or on average around it, is noise


@dataclass(frozen=True)
class Row:
    """What is known of an edit before its pictures are read."""

    where: str  # what errors call it
    key: Sequence[int]  # numbers that no other row has, for dice of its own
    content: Any  # what its reader finds it by
    operation: str = ""  # what kind of edit it is, if that is known
    group: str = "single"  # multi: with a subject


class Reader(ABC):
    """A data set: its rows at once, their pictures when they are asked for."""

    name: str
    skips = True  # whether rows of no use are to be expected, and passed over
    streams = False  # whether rows are best read one after the other

    @property
    def files(self) -> Sequence[Path]:
        """What the rows are read from, if that is not too much to be hashed"""
        return ()

    @property
    @abstractmethod
    def rows(self) -> Sequence[Row]:
        """Raises FlexEditError for a data set that cannot be read."""

    @abstractmethod
    def read(self, row: Row) -> Sample:
        """Pictures in their own size. Raises FlexEditError for a row of no use."""

    def expect(self, window: range) -> None:  # noqa: B027
        """Told to a stream: these rows are read next, in any order"""

    @property
    def identity(self) -> str:
        """What tells this data from other data, beside ``files``"""
        return ""

    def describe(self) -> dict[str, Any]:
        """What a benchmark shall say about where its cases are from."""
        return {"rows": len(self.rows)}


def check_sizes(scene: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Raises FlexEditError for pictures of two sizes (height, width)."""
    if scene != target:
        raise FlexEditError(
            f"the edited picture is {target[1]}×{target[0]} pixels, the other one "
            f"{scene[1]}×{scene[0]}; bring it to that size"
        )


def edited_region(scene: np.ndarray, target: np.ndarray, object_mask: np.ndarray) -> np.ndarray:
    """object_mask joined with wherever two pictures (H, W, 3) uint8 really differ, bool (H, W).

    What a lossy file or a VAE does to a pixel does not count as a difference. Raises FlexEditError
    for pictures of two sizes or without a difference.
    """
    check_sizes(scene.shape[:2], target.shape[:2])
    change = np.abs(scene.astype(np.float32) - target).max(-1) / 255
    around = ndimage.uniform_filter(change, 3, mode="nearest") > CHANGED
    region = (change > CHANGED) & ndimage.binary_opening(around, np.ones((3, 3)))
    if not region.any():
        raise FlexEditError("the edited picture shows no change; leave this row out")
    return region | object_mask
