"""One's own edits: a folder of pictures, and an index that says what each of them is.

``index.jsonl`` has a JSON object a line, as ``flexedit data`` writes it. H × W the scene's size
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ... import files, prompts
from ...errors import FlexEditError
from ..record import Record
from ..sample import Sample
from .reader import Reader, Row

INDEX = "index.jsonl"
PAINT = "red"  # as prompts.SEGMENT_INSTRUCTION says
MASKS = ("mask", "object_mask", "region")


class Index(Reader):
    """A folder with an index, or any JSONL file like it."""

    name = "own"
    skips = False

    def __init__(self, place: str | Path) -> None:
        path = Path(place)
        self.index = path if path.suffix == ".jsonl" else path / INDEX
        self.folder = self.index.parent

    @property
    def files(self) -> Sequence[Path]:
        return (self.index,)

    @cached_property
    def rows(self) -> Sequence[Row]:
        """Read once, with the size of every picture.

        Raises FlexEditError for a missing or empty index, for a row that is not complete, and for
        a picture that is missing, unreadable, or of another size than its scene.
        """
        records = files.read_records(Record, self.index)
        for number, record in records.items():
            if problem := complaint(record):
                raise FlexEditError(f"{files.line_of(self.files[0], number)}: {problem}")
        size_of = cache(lambda path: files.picture_size(self.folder / path))
        for record in records.values():
            scene = size_of(record.scene)
            for name in ("target", *MASKS):
                path = getattr(record, name)
                if path and not lies_over(size_of(path), scene, exactly=name == "target"):
                    height, width = size_of(path)
                    raise FlexEditError(
                        f"{path} has {width}×{height} pixels, but its scene {record.scene} "
                        f"{scene[1]}×{scene[0]}, as their camera was held. A {name} must lie over "
                        "it."
                    )
            for path in record.subjects:
                size_of(path)
        return [
            Row(files.line_of(self.files[0], number), (number,), record, record.operation)
            for number, record in records.items()
        ]

    def read(self, row: Row, turn: int = 0) -> Sample:
        record: Record = row.content
        scene = self._picture(record.scene)
        mask, object_mask, region = (
            self._mask(path, scene.shape[:2])
            for path in (record.mask, record.object_mask, record.region)
        )
        meant = object_mask if mask is None else mask
        if meant is not None and not meant.any():
            file = self.folder / (record.mask or record.object_mask)
            raise FlexEditError(f"{file} is empty: there is nothing white in it.")
        instruction = caption = record.instruction or prompts.default_instruction(record.task)
        if record.task == "segment" and not record.target and record.label:
            from ..world import words  # the world needs torch, a list does not

            caption = words.caption("segment", old=record.label, color=PAINT)
        reply = prompts.naming_reply(record.label) if record.label else prompts.GENERIC_REPLY
        return Sample(
            scene=scene,
            instruction=instruction,
            task=record.task,
            operation=record.operation or record.task,
            mask=mask,
            kind=record.kind,
            subject=self._picture(record.subjects[0]) if record.subjects else None,
            target=self._picture(record.target) if record.target else None,
            region=region,
            caption=record.caption or caption,
            reply=record.reply or reply,
            label=record.label,
            object_mask=object_mask,
        )

    def _picture(self, path: str) -> np.ndarray:
        return files.read_picture(self.folder / path, upright=True)

    def _mask(self, path: str, size: Any) -> np.ndarray | None:
        """(H, W) bool; a mask of another size is brought to the scene's."""
        if not path:
            return None
        mask = files.read_mask_file(self.folder / path)
        if mask.shape != size:
            mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.BOX))
        return mask > 0.5


def lies_over(size: tuple[int, int], scene: tuple[int, int], exactly: bool) -> bool:
    return size == scene if exactly else files.same_shape(size, scene)


def complaint(record: Record) -> str:
    """Why nothing can be learned from a record, "" if something can."""
    if record.complaint:
        return record.complaint
    if record.task == "segment" and not (record.mask or record.object_mask):
        return "to segment needs a mask or an object_mask."
    if record.task == "edit" and not (record.instruction.strip() and record.target):
        return "an edit needs an instruction and a target."
    if record.task == "segment" and not (record.target or record.object_mask):
        return "to segment needs a target, or an object_mask to paint."
    if record.task == "segment" and not record.target and record.instruction:
        return f"remove the instruction: without a target the object is painted {PAINT}."
    if record.task == "ask" and not (record.label or record.reply):
        return "a question needs a reply, or a label."
    if record.task == "ask" and record.target:
        return "a question has no target."
    return ""
