"""Cases from MagicBrush (arXiv 2306.10012): its parquet rows, with free shapes over its masks.

A row has no label and no operation. Both are taken from the instruction where it says them in
plain words ("replace the cat with a dog"); rows whose operation remains unclear are not used, an
unclear label is "". Rows that are of no use otherwise are skipped, and the benchmark says which.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ..errors import FlexEditError
from ..files import read_picture
from ..prompts import BACKGROUND
from .sources import (
    CHANGED,
    Draft,
    Pool,
    Skipped,
    Slot,
    edited_region,
    require,
    shape_over,
)

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
class Row:
    """Where a row is, and what its instruction says."""

    file: Path
    row_group: int
    offset: int  # in the row group
    image: str
    turn: int
    instruction: str
    operation: str
    label: str
    result_label: str
    group: str = "single"

    @property
    def name(self) -> str:
        return f"{self.image}-{self.turn}"


class MagicBrushSource:
    """A folder with parquet files of ``osunlp/MagicBrush``, or one of them."""

    name = "magicbrush"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def describe(self) -> dict[str, Any]:
        total, rows = self._texts
        return {"rows": total, "rows_with_a_clear_operation": len(rows)}

    def drafts(self, slots: Sequence[Slot], seed: int) -> Iterator[Draft | Skipped]:
        if any(slot.group == "multi" for slot in slots):
            raise FlexEditError("MagicBrush has no subject pictures. Ask for no multi cases.")
        rows = self._texts[1]
        require(slots, rows, self.folder)
        pool = Pool(rows, seed)
        skipped: list[Skipped] = []
        for slot in slots:
            draft = None
            while draft is None:
                row = pool.take(slot)
                if row is None:
                    raise FlexEditError(too_few(self.folder, len(slots), skipped))
                try:
                    draft = make(row, slot.kind, seed)
                except FlexEditError as error:
                    skipped.append(Skipped(row.name, str(error)))
                    yield skipped[-1]
            yield draft

    @cached_property
    def _texts(self) -> tuple[int, list[Row]]:
        """The number of all rows, and those whose operation is clear."""
        single = self.folder.suffix == ".parquet"
        files = [self.folder] if single else sorted(self.folder.rglob("*.parquet"))
        if not files:
            raise FlexEditError(
                f"{self.folder} has no *.parquet files. Download some of the data set there: "
                "hf download osunlp/MagicBrush --repo-type dataset --include 'data/dev-*' "
                f"--local-dir {self.folder}"
            )
        found = [text for file in files for text in texts(file)]
        return len(found), [row for row in found if row is not None]


def too_few(folder: Path, wanted: int, skipped: Sequence[Skipped]) -> str:
    reasons = "; ".join(f"{one.row}: {one.because}" for one in skipped[:3])
    return (
        f"{folder} has too few rows for {wanted} cases: {len(skipped)} could not be used "
        f"({reasons}). Ask for fewer or add parquet files."
    )


def texts(file: Path) -> Iterator[Row | None]:
    """The rows of a file without their pictures; None for one whose operation is unclear."""
    with parquet(file) as opened:
        if missing := {*TEXTS, *PICTURES} - set(opened.schema_arrow.names):
            raise FlexEditError(
                f"{file} lacks the columns {', '.join(sorted(missing))}; it is not a file of "
                "MagicBrush."
            )
        for row_group in range(opened.num_row_groups):
            table = opened.read_row_group(row_group, columns=list(TEXTS))
            for offset, row in enumerate(table.to_pylist()):
                understood = understand(row["instruction"] or "")
                yield understood and Row(
                    file, row_group, offset, str(row["img_id"]), int(row["turn_index"]),
                    row["instruction"].strip(), *understood,
                )  # fmt: skip


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


def understand(instruction: str) -> tuple[str, str, str] | None:
    """(operation, label, result label) of an instruction, None where the operation is unclear.

    A label is "" unless the instruction names the thing in at most three words.
    """
    text = " ".join(instruction.lower().split()).strip(" .!?")
    if TWO_EDITS.search(text):
        return None
    for operation, saying in SAYINGS:
        if found := re.fullmatch(POLITE + saying, text):
            said = found.groupdict()
            before = BACKGROUND if operation == "add" else short_name(said["old"])
            after = BACKGROUND if operation == "remove" else short_name(said["new"])
            return operation, before, after
    return None


def short_name(phrase: str) -> str:
    """ "the brown dog on the sofa" → "brown dog"; "" if it is not a plain name"""
    name = ARTICLE.sub("", WHERE.sub("", phrase.strip(" ,")))
    return "" if name in VAGUE or len(name.split()) > 3 else name


def make(row: Row, kind: str, seed: int) -> Draft:
    """Raises FlexEditError for a row that is of no use."""
    with parquet(row.file) as opened:
        table = opened.read_row_group(row.row_group, columns=list(PICTURES))
        cells = table.slice(row.offset, 1).to_pylist()[0]
    scene = picture_in(cells["source_img"])
    truth = picture_in(cells["target_img"], size=scene.shape[:2])
    full_mask = masked(picture_in(cells["mask_img"], "RGBA", scene.shape[:2]), scene)
    region = edited_region(scene, truth, full_mask)
    number = np.frombuffer(row.name.encode(), np.uint8)
    mask, orientation = shape_over(kind, full_mask, np.random.default_rng([seed, *number]))
    return Draft(
        name=row.name,
        operation=row.operation,
        orientation=orientation,
        setting="none",  # MagicBrush does not say
        scene=scene,
        mask=mask,
        full_mask=full_mask,
        truth=truth,
        region=region,
        instruction=row.instruction,
        label=row.label,
        result_label=row.result_label,
    )


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
