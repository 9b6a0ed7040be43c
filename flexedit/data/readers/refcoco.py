"""RefCOCO, RefCOCO+ and RefCOCOg (arXiv 1608.00272), and gRefCOCO (2306.00968): objects in COCO's
pictures, and what people call them.

``refs(unc).p`` is a Python 2 pickle of plain lists and dicts; gRefCOCO's ``grefs(unc).json`` has
the same with several annotations a row, which unite, or -1: there is no such thing in the picture.
The picture is the one of ``image_id``; ``file_name`` in a row is that of no file.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FlexEditError
from ...files import Frame, frame_of, read_json, read_picture
from ..sample import Sample
from .annotations import Annotations
from .reader import Reader, Row, segmentation

NOBODY = "-1"


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers; a pickle could run any program otherwise."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which plain data does not")


def read_pickle(file: Path) -> Any:
    """Raises FlexEditError for a file that cannot be read, or is more than plain data."""
    try:
        with file.open("rb") as opened:
            return PlainUnpickler(opened, encoding="utf-8", errors="replace").load()
    except Exception as error:  # whatever broken pickles raise
        raise FlexEditError(f"{file} cannot be read as plain pickled data ({error}).") from error


class RefCoco(Reader):
    name = "refcoco"

    def __init__(self, refs: str, instances: str, pictures: str, split: str = "train") -> None:
        self.refs, self.instances, self.pictures = map(Path, (refs, instances, pictures))
        self.split = split

    @property
    def files(self) -> Sequence[Path]:
        return self.refs, self.instances

    @property
    def identity(self) -> str:
        return self.split

    @cached_property
    def rows(self) -> Sequence[Row]:
        is_json = self.refs.suffix == ".json"
        refs = read_json(self.refs) if is_json else read_pickle(self.refs)
        self.known = Annotations.read(self.instances)
        try:
            rows = [
                Row(f"ref_id {ref['ref_id']}", (number,), ref)
                for number, ref in enumerate(refs)
                if ref["split"] == self.split
            ]
            splits = sorted({str(ref["split"]) for ref in refs})
        except (KeyError, TypeError) as error:
            raise FlexEditError(f"{self.refs} is none of RefCOCO's files ({error!r})") from error
        if not rows:
            raise FlexEditError(
                f"{self.refs} has no rows of the split {self.split}; it has {', '.join(splits)}"
            )
        return rows

    def read(self, row: Row, turn: int = 0) -> Sample:
        ref = row.content
        said = [sentence["sent"].strip() for sentence in ref["sentences"]]
        expression = said[(row.key[0] + turn) % len(said)]
        file = self.pictures / self.known.image(str(ref["image_id"]))["file_name"]
        scene, name = read_picture(file, upright=True), f"{ref['ref_id']}"
        ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        if list(map(str, ids)) == [NOBODY]:
            reply = f"There is nothing in the picture that is '{expression}'"
            return segmentation(scene, None, "", expression, reply=reply, name=name)
        mask, label = self._objects(list(map(str, ids)), frame_of(file))
        return segmentation(scene, mask, label, expression, name=name)

    def _objects(self, ids: Sequence[str], frame: Frame) -> tuple[np.ndarray, str]:
        """The union of annotations that are no crowds, and what they are"""
        masks, labels = [], []
        for key in ids:
            annotation = self.known.annotations.get(key)
            if annotation is None:
                raise FlexEditError(f"{self.instances} has no annotation with the id {key}")
            if not annotation.get("iscrowd"):
                masks.append(self.known.mask(annotation, frame))
                labels.append(self.known.label(annotation))
        if not masks:
            raise FlexEditError(f"the annotations {', '.join(ids)} are crowds")
        return np.logical_or.reduce(masks), " and ".join(dict.fromkeys(labels))


class GRefCoco(RefCoco):
    name = "grefcoco"
