"""MGIE's selection of InstructPix2Pix (arXiv 2309.17102), with expressive instructions.

``ipr2pr.tsv``: a pair a line, the source's JPEG in base64, a tab, the target's · ``ipr2pr.pkl``:
{"task": [[{input, instruction, lineidx, …}], …]}, lineidx being the byte where the line starts ·
``ipr2pr_expressive.json``: {input: {"instruction", "expressive"}}.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ...errors import FlexEditError
from ...files import read_json
from ..sample import Sample
from .reader import Reader, Row, pair
from .refcoco import read_pickle
from .shards import picture_of


class IPr2Pr(Reader):
    name = "ipr2pr"

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @property
    def files(self) -> Sequence[Path]:
        return self.folder / "ipr2pr.pkl", self.folder / "ipr2pr_expressive.json"

    @cached_property
    def rows(self) -> Sequence[Row]:
        tasks, expressive = read_pickle(self.files[0]), read_json(self.files[1])
        try:
            items = [task[0] for task in tasks["task"]]
            return [
                Row(
                    f"input {item['input']}",
                    (number,),
                    (
                        int(item["lineidx"]),
                        item["instruction"],
                        expressive[item["input"]]["expressive"],
                    ),
                )
                for number, item in enumerate(items)
            ]
        except (LookupError, TypeError, ValueError) as error:
            raise FlexEditError(
                f"{self.files[0]} and {self.files[1].name} do not fit as MGIE's do ({error!r})"
            ) from error

    def read(self, row: Row, turn: int = 0) -> Sample:
        offset, instruction, expressive = row.content
        with (self.folder / "ipr2pr.tsv").open("rb") as lines:
            lines.seek(offset)
            cells = lines.readline().strip().split(b"\t")
        try:
            scene, target = (picture_of(base64.b64decode(cell, validate=True)) for cell in cells)
        except (ValueError, binascii.Error) as error:
            raise FlexEditError(f"byte {offset} of ipr2pr.tsv starts no pair ({error})") from error
        return pair(scene, target, instruction, reply=expressive.strip(), name=row.where)
