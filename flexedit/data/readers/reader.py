"""What every reader of a data set can do. H × W the size of a scene"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image
from scipy import ndimage

from ...errors import FlexEditError
from ...files import read_mask_file, same_shape
from ...prompts import GENERIC_REPLY, naming_reply
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


class Rows(Sequence[Row]):
    """Rows that are made as they are asked for"""

    @abstractmethod
    def row(self, index: int) -> Row:
        """One that is there"""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self.row(each) for each in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.row(index)


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
    def read(self, row: Row, turn: int = 0) -> Sample:
        """Pictures in their own size; of several sayings another one each turn.

        Raises FlexEditError for a row of no use.
        """

    def expect(self, window: range) -> None:  # noqa: B027
        """Told to a stream: these rows are read next, in any order"""

    @property
    def identity(self) -> str:
        """What tells this data from other data, beside ``files``"""
        return ""

    def describe(self) -> dict[str, Any]:
        """What a benchmark shall say about where its cases are from."""
        return {"rows": len(self.rows)}


def segmentation(
    scene: np.ndarray, object_mask: np.ndarray | None, label: str, expression: str, **known: Any
) -> Sample:
    """A sample whose object is to be painted; expression: what names it, "" if its mask does"""
    return Sample(
        scene=scene,
        object_mask=object_mask,
        instruction=known.pop("instruction", ""),
        task="segment",
        operation="segment",
        label=label,
        reply=known.pop("reply", naming_reply(label) if label else GENERIC_REPLY),
        expression=expression,
        **known,
    )


def question(scene: np.ndarray, instruction: str, reply: str, **known: Any) -> Sample:
    """A sample that is answered in words. Raises FlexEditError where there are none."""
    if not (instruction.strip() and reply.strip()):
        raise FlexEditError("the question or its answer is empty")
    return Sample(
        scene=scene,
        instruction=instruction.strip(),
        caption=instruction.strip(),
        reply=reply.strip(),
        task="ask",
        operation="ask",
        **known,
    )


def pair(scene: np.ndarray, target: np.ndarray, instruction: str, **known: Any) -> Sample:
    """An edit, by default of a whole picture. A scene and a target of the same proportions are
    brought to the size of the smaller.

    Raises FlexEditError for other sizes, and for no instruction.
    """
    instruction = (instruction or "").strip()
    if not instruction:
        raise FlexEditError("the instruction is empty")
    sizes = sorted((scene.shape[:2], target.shape[:2]))
    if not same_shape(*sizes):
        check_sizes(scene.shape[:2], target.shape[:2])
    return Sample(
        scene=resized(scene, sizes[0]),
        target=resized(target, sizes[0]),
        instruction=instruction,
        caption=known.pop("caption", instruction),
        reply=known.pop("reply", GENERIC_REPLY),
        **known,
    )


def resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) uint8 or a mask (H, W) bool in another size (height, width)"""
    if array.shape[:2] == size:
        return array
    if array.dtype == bool:
        shares = Image.fromarray(array.astype(np.float32))
        return np.asarray(shares.resize(size[::-1], Image.Resampling.BOX)) > 0.5
    image = Image.fromarray(array).resize(size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(image)


def mask_over(file: Path, scene: np.ndarray) -> np.ndarray:
    """A picture of a mask as (H, W) bool of its scene.

    Raises FlexEditError for one of another shape, and for one that is empty.
    """
    mask = read_mask_file(file) > 0.5
    if not same_shape(mask.shape, scene.shape[:2]):
        check_sizes(scene.shape[:2], mask.shape)
    mask = resized(mask, scene.shape[:2])
    if not mask.any():
        raise FlexEditError(f"{file} is empty: there is nothing white in it")
    return mask


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
