"""MIMIC-IT (arXiv 2306.05425): questions and answers on one or several pictures.

``X_instructions.json``: {"data": {id: {instruction, answer, image_ids, rel_ins_ids}}}. Pictures are
in ``X.json``, {id: base64}, which is read as a whole, or in parquet: ids as its index, base64 in
the column of that name. The first picture is the scene, the second the subject; no model here reads
more, so rows with more are left out, and so are examples of other rows.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FlexEditError
from ...files import read_json
from ..sample import Sample
from .reader import Reader, Row, question
from .shards import picture_of, readable

MOST = 2  # pictures


class MimicIt(Reader):
    name = "mimicit"

    def __init__(self, instructions: str, pictures: str) -> None:
        self.instructions, self.pictures = Path(instructions), Path(pictures)

    @property
    def files(self) -> Sequence[Path]:
        return (self.instructions,)

    @property
    def identity(self) -> str:
        return self.pictures.name

    @cached_property
    def everything(self) -> dict[str, Any]:
        content = read_json(self.instructions)
        if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
            raise FlexEditError(f"{self.instructions} has no data, as MIMIC-IT's files do")
        found: dict[str, Any] = content["data"]
        return found

    @cached_property
    def rows(self) -> Sequence[Row]:
        return [
            Row(name, (number,), name)
            for number, (name, row) in enumerate(self.everything.items())
            if isinstance(row, dict) and 0 < len(row.get("image_ids") or ()) <= MOST
        ]

    def describe(self) -> dict[str, Any]:
        left_out = len(self.everything) - len(self.rows)
        return {"rows": len(self.rows), "rows_with_no_picture_or_more_than_two": left_out}

    @cached_property
    def encoded(self) -> Mapping[str, str]:
        """Pictures by their id"""
        if self.pictures.suffix != ".parquet":
            content: Mapping[str, str] = read_json(self.pictures)
            return content
        with readable(str(self.pictures)):
            import pandas

            column: Mapping[str, str] = pandas.read_parquet(self.pictures)["base64"]
            return column

    def read(self, row: Row, turn: int = 0) -> Sample:
        said = self.everything[row.content]
        scene, *others = (self._picture(name) for name in said["image_ids"])
        subject = others[0] if others else None
        return question(scene, said["instruction"], said["answer"], subject=subject, name=row.where)

    def _picture(self, name: str) -> np.ndarray:
        if name not in self.encoded:
            raise FlexEditError(f"{self.pictures} has no picture {name}")
        try:
            return picture_of(base64.b64decode(self.encoded[name], validate=True))
        except (ValueError, TypeError, binascii.Error) as error:
            raise FlexEditError(f"the picture {name} is no base64 ({error})") from error
