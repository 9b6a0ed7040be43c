"""Every object of a COCO-format annotation file, to be segmented, but for crowds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ...files import frame_of, read_picture
from ..sample import Sample
from .annotations import Annotations
from .reader import Reader, Row, segmentation


class Instances(Reader):
    name = "coco-instances"

    def __init__(self, annotations: str, pictures: str) -> None:
        self.annotations, self.pictures = Path(annotations), Path(pictures)

    @property
    def files(self) -> Sequence[Path]:
        return (self.annotations,)

    @cached_property
    def rows(self) -> Sequence[Row]:
        self.known = Annotations.read(self.annotations)
        return [
            Row(f"annotation {annotation['id']}", (number,), annotation)
            for number, annotation in enumerate(self.known.annotations.values())
            if annotation.get("segmentation") and not annotation.get("iscrowd")
        ]

    def read(self, row: Row, turn: int = 0) -> Sample:
        annotation, known = row.content, self.known
        file = self.pictures / known.image(annotation["image_id"])["file_name"]
        frame = frame_of(file)
        return segmentation(
            read_picture(file, upright=True),
            known.mask(annotation, frame),
            known.label(annotation),
            expression="",
            others=known.others(annotation, frame),
            name=annotation["id"],
        )
