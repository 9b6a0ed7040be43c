"""Pairs in the JSON of SmartEdit's ReasonEdit (arXiv 2312.06739) and of InsightEdit's AdvancedEdit
(2411.17323): {"0000": {"origin_img_path", "target_img_path", "instruction": [saying, …]}}.

AdvancedEdit adds ``task_type``, ``class_origin``, ``class_target`` (with _ for blanks), the mask as
``segmentation`` or in the file ``mask_json_path``, and instructions that need thought. Pictures
were made smaller on the way: scene and target are brought to one size, masks are scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FlexEditError
from ...files import Frame, frame_of, read_json, read_picture
from ...prompts import BACKGROUND, naming_reply
from ..sample import Sample
from .annotations import mask_of
from .reader import Reader, Row, pair, resized

REASONING = ("reasoning_instruction1", "reasoning_instruction2")


class ReasonEdit(Reader):
    """``pairs``: the file, or a folder of such; ``pictures``: where relative paths start, by
    default beside it
    """

    name = "reasonedit"

    def __init__(self, pairs: str, pictures: str = "") -> None:
        self.pairs = Path(pairs)
        beside = self.pairs if self.pairs.is_dir() else self.pairs.parent
        self.pictures = Path(pictures) if pictures else beside

    @property
    def files(self) -> Sequence[Path]:
        return sorted(self.pairs.rglob("*.json")) if self.pairs.is_dir() else [self.pairs]

    @cached_property
    def rows(self) -> Sequence[Row]:
        contents = {file: read_json(file) for file in self.files}
        for file, content in contents.items():
            pairs = content.values() if isinstance(content, dict) else [None]
            if not all(isinstance(each, dict) for each in pairs):
                raise FlexEditError(f"{file} is no object of pairs by their number")
        found = [
            (f"{file.name}, {key}", content)
            for file, pairs in contents.items()
            for key, content in pairs.items()
        ]
        if not found:
            raise FlexEditError(f"{self.pairs} has no pairs")
        return [Row(where, (number,), pair) for number, (where, pair) in enumerate(found)]

    def read(self, row: Row, turn: int = 0) -> Sample:
        content = row.content
        file = self.pictures / content["origin_img_path"]
        scene = read_picture(file, upright=True)
        target = read_picture(self.pictures / content["target_img_path"], upright=True)
        said = [*content["instruction"], *(content.get(name) for name in REASONING)]
        said = [text for text in said if text]
        if not said:
            raise FlexEditError("the instruction is empty")
        operation = content.get("task_type", "")
        before, after = (
            (content.get(name) or "").replace("_", " ") for name in ("class_origin", "class_target")
        )
        label = BACKGROUND if operation == "add" else before
        known: dict[str, Any] = {"reply": naming_reply(label)} if label else {}
        sample = pair(
            scene,
            target,
            said[(row.key[0] + turn) % len(said)],
            caption=said[0],
            operation=operation or "edit",
            label=label,
            result_label=BACKGROUND if operation == "remove" else after,
            name=row.where,
            **known,
        )
        mask = self._mask(content, before or after, frame_of(file), row.where)
        if mask is None:
            return sample
        object_mask = resized(mask, sample.scene.shape[:2])
        if not object_mask.any():
            raise FlexEditError("the mask is empty")
        return Sample(**{**vars(sample), "object_mask": object_mask})

    def _mask(
        self, content: dict[str, Any], name: str, frame: Frame, where: str
    ) -> np.ndarray | None:
        """The object's, (H, W) bool of the scene; None where the pair has none"""
        shape = content.get("segmentation")
        if not shape and (path := (content.get("mask_json_path") or "").strip()):
            objects = read_json(self.pictures / path)["annotations"]
            called = [each for each in objects if each["class_name"].replace("_", " ") == name]
            if len(called) > 1:
                called = [each for each in called if close(each["bbox"], content["bbox"])]
            if len(called) != 1:
                raise FlexEditError(f"{path} has {len(called)} objects called {name}")
            shape = called[0]["segmentation"]
        return mask_of(shape, None, frame, where) if shape else None


def close(corners: Sequence[float], box: Sequence[float]) -> bool:
    """Whether left, top, right, bottom are left, top, width, height, but for rounding"""
    left, top, width, height = box
    return np.allclose(corners, (left, top, left + width, top + height), rtol=0, atol=2)


class AdvancedEdit(ReasonEdit):
    name = "advancededit"
