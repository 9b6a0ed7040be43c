"""ReasonSeg (arXiv 2308.00692), as SmartEdit trains on it: what has to be thought about, and where
it is.

For each ``NAME.json``, {"text": [sentence, …], "Name": object}, there is ``NAME.jpg`` in two other
folders, the picture and its mask in black and white (as JPEG: grey around the edges).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ...errors import FlexEditError
from ...files import read_json, read_picture
from ..sample import Sample
from .reader import Reader, Row, mask_over, segmentation


class ReasonSeg(Reader):
    name = "reasonseg"

    def __init__(self, jsons: str, pictures: str, masks: str) -> None:
        self.jsons, self.pictures, self.masks = map(Path, (jsons, pictures, masks))

    @property
    def files(self) -> Sequence[Path]:
        return sorted(self.jsons.rglob("*.json"))

    @cached_property
    def rows(self) -> Sequence[Row]:
        if not self.files:
            raise FlexEditError(f"{self.jsons} has no *.json files")
        names = [str(file.relative_to(self.jsons).with_suffix("")) for file in self.files]
        return [Row(name, (number,), name) for number, name in enumerate(names)]

    def read(self, row: Row, turn: int = 0) -> Sample:
        said = read_json(self.jsons / f"{row.content}.json")
        try:
            texts, label = [str(text) for text in said["text"]], str(said["Name"]).lower()
            sentence = texts[(row.key[0] + turn) % len(texts)].strip()
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise FlexEditError(f"it lacks text or Name ({error!r})") from error
        scene = read_picture(self.pictures / f"{row.content}.jpg", upright=True)
        mask = mask_over(self.masks / f"{row.content}.jpg", scene)
        return segmentation(scene, mask, label, "", instruction=sentence, name=row.content)
