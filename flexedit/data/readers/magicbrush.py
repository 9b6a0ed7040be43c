"""MagicBrush (arXiv 2306.10012): its parquet files.

A row has no label and no operation. Both are taken from the instruction where it says them in
plain words ("replace the cat with a dog"), and are "" where it does not.
"""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ...errors import FlexEditError
from ...files import read_picture
from ...prompts import BACKGROUND, GENERIC_REPLY, naming_reply
from ..order import LANES, WINDOW
from ..sample import Sample
from .reader import CHANGED, Reader, Row, edited_region

TEXTS = ("img_id", "turn_index", "instruction")
PICTURES = ("source_img", "mask_img", "target_img")

WHITE = 250  # JPEG and resizing may leave white a little less than 255
POLITE = r"(?:(?:please|now|then|also|and|next|let's|let us|can you|could you)[\s,]+)*"
SAYINGS = (
    ("remove", r"(?:remove|delete|erase|get rid of|take away|take out) (?P<old>.+)"),
    ("replace", r"(?:replace|swap|swap out) (?P<old>.+?) (?:with|for) (?P<new>.+)"),
    ("replace", r"replace (?P<old>.+?) by (?P<new>.+)"),
    ("replace", r"(?:turn|change|transform|convert) (?P<old>.+?) into (?P<new>.+)"),
    ("add", r"(?:add|insert|place|draw|put(?! out| off| away)) (?P<new>.+)"),
)
TWO_EDITS = re.compile(
    r"\b(?:and|then) "
    r"(?:add|insert|place|draw|put|remove|delete|erase|replace|swap|turn|change|make)\b"
)
ARTICLE = re.compile(r"^(?:the|an?|some|this|that|these|those|his|her|its|their)\s+")
WHERE = re.compile(
    r"\s(?:on|onto|in|into|inside|to|next|near|at|under|over|above|below|behind|beside|between|"
    r"around|across|from|with|that|which|who|so|instead|and)\s.*"
)
VAGUE = {"", "it", "this", "that", "them", "these", "those", "one", "something", "thing", "object"}


@dataclass(frozen=True)
class Turn:
    """Where a row is, and what its instruction says."""

    file: Path
    row_group: int
    offset: int  # in the row group
    instruction: str
    operation: str
    label: str
    result_label: str


class MagicBrush(Reader):
    """A folder with parquet files of ``osunlp/MagicBrush``, or one of them."""

    name = "magicbrush"
    streams = True

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._kept: OrderedDict[Turn, dict[str, Any]] = OrderedDict()  # pictures of some rows

    @property
    def files(self) -> Sequence[Path]:
        single = self.folder.suffix == ".parquet"
        return [self.folder] if single else sorted(self.folder.rglob("*.parquet"))

    @cached_property
    def rows(self) -> Sequence[Row]:
        if not self.files:
            raise FlexEditError(
                f"{self.folder} has no *.parquet files. Download some of the data set there: "
                "hf download osunlp/MagicBrush --repo-type dataset --include 'data/dev-*' "
                f"--local-dir {self.folder}"
            )
        return [row for file in self.files for row in rows_of(file)]

    def describe(self) -> dict[str, Any]:
        clear = [row for row in self.rows if row.operation]
        return {"rows": len(self.rows), "rows_with_a_clear_operation": len(clear)}

    def expect(self, window: range) -> None:
        rows = [self.rows[index] for index in window]
        if rows[0].content not in self._kept:
            self._keep(rows)

    def _keep(self, rows: Sequence[Row]) -> None:
        """Reads pictures, of rows that lie together at once."""
        groups = groupby(rows, lambda row: (row.content.file, row.content.row_group))
        for (file, row_group), together in groups:
            with parquet(file) as opened:
                table = opened.read_row_group(row_group, columns=list(PICTURES))
                for row in together:
                    self._kept[row.content] = table.slice(row.content.offset, 1).to_pylist()[0]
        while len(self._kept) > LANES * WINDOW:
            self._kept.popitem(last=False)

    def read(self, row: Row, turn: int = 0) -> Sample:
        told: Turn = row.content
        if told not in self._kept:
            self._keep([row])
        cells = self._kept[told]
        scene = picture_in(cells["source_img"])
        target = picture_in(cells["target_img"], size=scene.shape[:2])
        object_mask = masked(picture_in(cells["mask_img"], "RGBA", scene.shape[:2]), scene)
        return Sample(
            scene=scene,
            instruction=told.instruction,
            operation=told.operation,
            target=target,
            region=edited_region(scene, target, object_mask),
            caption=told.instruction,
            reply=naming_reply(told.label) if told.label else GENERIC_REPLY,
            label=told.label,
            result_label=told.result_label,
            object_mask=object_mask,
            name=row.where,
        )


def rows_of(file: Path) -> Iterator[Row]:
    """The rows of a file without their pictures."""
    with parquet(file) as opened:
        if missing := {*TEXTS, *PICTURES} - set(opened.schema_arrow.names):
            raise FlexEditError(
                f"{file} lacks the columns {', '.join(sorted(missing))}; it is not a file of "
                "MagicBrush."
            )
        for row_group in range(opened.num_row_groups):
            table = opened.read_row_group(row_group, columns=list(TEXTS))
            for offset, cells in enumerate(table.to_pylist()):
                name = f"{cells['img_id']}-{int(cells['turn_index'])}"
                instruction = (cells["instruction"] or "").strip()
                turn = Turn(file, row_group, offset, instruction, *understand(instruction))
                yield Row(name, name.encode(), turn, turn.operation)


@contextmanager
def parquet(file: Path) -> Iterator[Any]:
    """An open ParquetFile. Raises FlexEditError, also for what fails while it is read."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise FlexEditError("Reading MagicBrush needs pyarrow: pip install pyarrow") from error
    try:
        with ParquetFile(file) as opened:
            yield opened
    except (OSError, pyarrow.ArrowException) as error:
        raise FlexEditError(f"{file} cannot be read as parquet ({error}).") from error


def understand(instruction: str) -> tuple[str, str, str]:
    """(operation, label, result label) of an instruction, each "" where it is unclear.

    A label is unclear unless the instruction names the thing in at most three words.
    """
    text = " ".join(instruction.lower().split()).strip(" .!?")
    if TWO_EDITS.search(text):
        return "", "", ""
    for operation, saying in SAYINGS:
        if found := re.fullmatch(POLITE + saying, text):
            said = found.groupdict()
            before = BACKGROUND if operation == "add" else short_name(said["old"])
            after = BACKGROUND if operation == "remove" else short_name(said["new"])
            return operation, before, after
    return "", "", ""


def short_name(phrase: str) -> str:
    """ "the brown dog on the sofa" → "brown dog"; "" if it is not a plain name"""
    name = ARTICLE.sub("", WHERE.sub("", phrase.strip(" ,")))
    return "" if name in VAGUE or len(name.split()) > 3 else name


def picture_in(
    cell: dict[str, Any] | None, mode: str = "RGB", size: tuple[int, int] | None = None
) -> np.ndarray:
    """An image of a row (H, W, C) uint8, brought to a size (H, W) of the same proportions."""
    if not cell or not cell.get("bytes"):
        raise FlexEditError("a picture is missing")
    picture = read_picture(io.BytesIO(cell["bytes"]), mode)
    if size is None or picture.shape[:2] == size:
        return picture
    height, width = picture.shape[:2]
    if abs(height * size[1] - width * size[0]) > 0.01 * height * size[1]:
        raise FlexEditError(f"a picture has {width}×{height} pixels, its scene {size[1]}×{size[0]}")
    resample = Image.Resampling.NEAREST if mode == "RGBA" else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(picture).resize(size[::-1], resample))


def masked(mask_picture: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """What a mask picture (H, W, 4) marks of its scene (H, W, 3), bool (H, W).

    Where it is transparent; else, where it alone is white; else, where it differs from the scene.
    Raises FlexEditError where it marks nothing, or everything, which says as little.
    """
    color, alpha = mask_picture[..., :3], mask_picture[..., 3]
    differs = np.abs(color.astype(np.int16) - scene).max(-1) > 255 * CHANGED
    white = (color >= WHITE).all(-1) & differs
    for candidate in (alpha < 128, white, differs):
        mask = ndimage.binary_fill_holes(ndimage.binary_opening(candidate, np.ones((3, 3))))
        if mask.any() and not mask.all():
            return mask
    raise FlexEditError("the mask is empty or covers the whole picture")
