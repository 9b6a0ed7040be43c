"""COCO-Stuff (arXiv 1612.03716): a map of classes for each of COCO's pictures.

``ID.png`` beside ``ID.jpg``; a pixel's value is one less than the class's number in ``labels.txt``
("1: person"), 255 is void. Some releases are palette PNGs: their indices count, not their colours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import FlexEditError
from ...files import READING_ERRORS, read_picture
from ..sample import Sample
from .reader import Reader, Row, check_sizes, segmentation

VOID = 255
SMALLEST = 0.002  # of the picture: less of a class is no object that anybody means


class CocoStuff(Reader):
    name = "coco-stuff"

    def __init__(self, maps: str, pictures: str, labels: str) -> None:
        self.maps, self.pictures, self.labels = map(Path, (maps, pictures, labels))

    @property
    def files(self) -> Sequence[Path]:
        return (self.labels,)

    @property
    def identity(self) -> str:
        return f"{len(self.rows)} maps"

    @cached_property
    def classes(self) -> dict[int, str]:
        """Names by the pixels' values"""
        try:
            text = self.labels.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise FlexEditError(f"{self.labels} cannot be read ({error}).") from error
        return {
            int(number) - 1: name.strip()
            for number, name in re.findall(r"^(\d+):(.+)$", text, re.MULTILINE)
            if int(number) > 0
        }

    @cached_property
    def rows(self) -> Sequence[Row]:
        if not self.classes:
            raise FlexEditError(f'{self.labels} has no lines like "1: person"')
        found = sorted(self.maps.glob("*.png"))
        if not found:
            raise FlexEditError(f"{self.maps} has no *.png files")
        return [Row(file.name, (number,), file.stem) for number, file in enumerate(found)]

    def read(self, row: Row, turn: int = 0) -> Sample:
        scene = read_picture(self.pictures / f"{row.content}.jpg")  # as stored, like its map
        file = self.maps / f"{row.content}.png"
        try:
            with Image.open(file) as opened:
                if opened.mode not in ("P", "L"):
                    raise FlexEditError(f"{file} has colours; a map of classes has 8 bits a pixel")
                classes = np.asarray(opened)
        except READING_ERRORS as error:
            raise FlexEditError(f"{file} cannot be read as a picture ({error}).") from error
        check_sizes(scene.shape[:2], classes.shape)
        values, counts = np.unique(classes[classes != VOID], return_counts=True)
        large = [int(value) for value in values[counts >= SMALLEST * classes.size]]
        if not large:
            raise FlexEditError(f"{file} has no class of a fair size")
        chosen = large[(row.key[0] + turn) % len(large)]
        if chosen not in self.classes:
            raise FlexEditError(f"{file} has the class {chosen}, which {self.labels} has not")
        others = tuple(classes == value for value in large if value != chosen)
        label = self.classes[chosen]
        return segmentation(scene, classes == chosen, label, "", others=others, name=row.content)
