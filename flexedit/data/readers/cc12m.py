"""CC12M's captions (arXiv 2102.08981), with pictures (img2dataset's tars) or without (its TSV).

Tars have KEY.jpg with KEY.txt, or "caption" in KEY.json. A line of the TSV is URL, tab, caption,
below a header or none; its rows get a plain grey picture. There is no edit: what is learned is what
the words mean (``align``).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from ...errors import FlexEditError
from ...prompts import GENERIC_REPLY
from ..sample import Sample
from .reader import Reader, Row, Rows
from .shards import Cells, ShardReader, Shards, picture_of

PLAIN = (256, 256, 3)


def reader_of(place: str) -> Reader:
    """For what is there"""
    return Lines(place) if place.endswith(".tsv") else Tars(place)


def captioned(scene: np.ndarray, caption: str | None, name: str) -> Sample:
    words = (caption or "").strip()
    if not words:
        raise FlexEditError("the caption is empty")
    return Sample(
        scene=scene,
        instruction=words,
        caption=words,
        reply=GENERIC_REPLY,
        operation="caption",
        name=name,
    )


class Tars(ShardReader):
    name = "cc12m"

    def __init__(self, place: str) -> None:
        self.shards = partial(Shards, place, "tar")

    def sample(self, cells: Cells, row: Row) -> Sample:
        caption = cells.get("txt") or (cells.get("json") or {}).get("caption")
        return captioned(picture_of(cells.get("jpg")), caption, row.where)


class LineRows(Rows):
    """Where the lines of a file begin: 8 bytes a row"""

    def __init__(self, file: Path) -> None:
        self.starts = array("q")
        try:
            with file.open("rb") as lines:
                start = 0
                for line in lines:
                    if line.strip() and not line.lower().startswith(b"url\t"):
                        self.starts.append(start)
                    start += len(line)
        except OSError as error:
            raise FlexEditError(f"{file} cannot be read ({error}).") from error

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, index: int) -> Row:
        return Row(f"row {index + 1}", (index,), self.starts[index])


class Lines(Reader):
    name = "cc12m"

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    @property
    def files(self) -> Sequence[Path]:
        return (self.file,)

    @cached_property
    def rows(self) -> Sequence[Row]:
        return LineRows(self.file)

    def read(self, row: Row, turn: int = 0) -> Sample:
        with self.file.open("rb") as lines:
            lines.seek(row.content)
            url, tab, caption = lines.readline().decode("utf-8", "replace").partition("\t")
        if not tab:
            raise FlexEditError(f"{url.strip()!r:.60} has no tab between address and caption")
        return captioned(np.full(PLAIN, 127, np.uint8), caption, row.where)
