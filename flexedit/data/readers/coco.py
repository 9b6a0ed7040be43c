"""Any COCO-format instance annotations and pictures edited by whatever means.

Every line of the edits file is a JSON object that ties one annotated object to one edit of it:

    {"image_id": 42, "annotation_id": 7, "edited": "42-fox.png", "operation": "replace",
     "instruction": "turn it into a fox", "result_label": "fox", "setting": "outdoor",
     "subject": "fox.jpg", "subject_setting": "simple"}

``edited`` and ``subject`` are files beside the edits file. To remove or replace, the annotated
picture is the scene and ``edited`` the truth. To add, the annotated object is what is added: the
annotated picture is the truth, and ``edited``, which lacks the object, the scene.
``setting``, ``subject`` and ``subject_setting`` may be left out, and so may ``result_label`` but
for a replacement.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from ...errors import FlexEditError
from ...files import line_of, read_picture, read_records
from ...prompts import BACKGROUND, naming_reply
from ...validation import STRICT
from ..sample import Sample
from .reader import Row, edited_region


@dataclass(frozen=True, config=STRICT)
class Edit:
    """A line of the edits file."""

    image_id: int | str
    annotation_id: int | str
    edited: str
    instruction: str
    operation: Literal["add", "replace", "remove"]
    result_label: str = ""
    setting: Literal["indoor", "outdoor", "none"] = "none"
    subject: str = ""
    subject_setting: Literal["simple", "complex"] | None = None

    def __post_init__(self) -> None:
        if self.subject and not self.subject_setting:
            raise ValueError("the subject has no subject_setting; give simple or complex")
        if self.subject_setting and not self.subject:
            raise ValueError("there is a subject_setting without a subject; add one")
        if not self.instruction.strip():
            raise ValueError("the instruction is empty; say what should change")
        if self.operation == "remove" and self.subject:
            raise ValueError("a removal needs no subject; leave it out")
        if self.operation == "replace" and not self.result_label:
            raise ValueError("a replacement needs result_label: what is there afterwards")

    @property
    def group(self) -> str:
        return "multi" if self.subject else "single"


class Coco:
    """``annotations``, a COCO instances JSON of ``pictures``, and the ``edits`` file (JSONL)."""

    name = "coco"
    skips = False

    def __init__(self, annotations: str | Path, pictures: str | Path, edits: str | Path) -> None:
        self.annotations, self.pictures, self.edits = map(Path, (annotations, pictures, edits))
        self.files = (self.annotations, self.edits)

    @cached_property
    def rows(self) -> Sequence[Row]:
        edits = read_records(Edit, self.edits)
        self.instances = Instances(self.annotations)
        return [
            Row(line_of(self.edits, line), (line,), edit, edit.operation, edit.group)
            for line, edit in edits.items()
        ]

    def describe(self) -> dict[str, Any]:
        return {"annotations": self.annotations.name, "edits": self.edits.name}

    def read(self, row: Row) -> Sample:
        edit, instances = row.content, self.instances
        picture = read_picture(self.pictures / instances.file(edit.image_id))
        edited = read_picture(self.edits.parent / edit.edited)
        scene, target = (edited, picture) if edit.operation == "add" else (picture, edited)
        annotation, others = instances.look_up(edit.image_id, edit.annotation_id)
        object_mask, *rest = (decode(one, *picture.shape[:2]) for one in (annotation, *others))
        if not object_mask.any():
            raise FlexEditError(
                f"the mask of the annotation {annotation['id']} is empty; choose another object"
            )
        category = instances.category(annotation)
        label = BACKGROUND if edit.operation == "add" else category
        after = {"add": category, "remove": BACKGROUND}
        return Sample(
            scene=scene,
            instruction=edit.instruction,
            operation=edit.operation,
            subject=read_picture(self.edits.parent / edit.subject) if edit.subject else None,
            target=target,
            region=edited_region(scene, target, object_mask),
            caption=edit.instruction,
            reply=naming_reply(label),
            label=label,
            result_label=edit.result_label or after[edit.operation],
            object_mask=object_mask,
            others=tuple(rest),
            setting=edit.setting,
            subject_setting=edit.subject_setting,
            name=f"{row.key[0]:05d}",
        )


class Instances:
    """A COCO-format annotation file. Ids may be numbers or texts."""

    def __init__(self, path: Path) -> None:
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            self._files = {str(one["id"]): str(one["file_name"]) for one in read["images"]}
            self._names = {str(one["id"]): str(one["name"]) for one in read["categories"]}
            self._of_image: dict[str, dict[str, dict[str, Any]]] = {key: {} for key in self._files}
            for one in read["annotations"]:
                self._of_image[str(one["image_id"])][str(one["id"])] = one
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlexEditError(
                f"{path} cannot be read as COCO-format annotations ({error!r}): it must have "
                "images, annotations and categories that refer to each other by id."
            ) from error
        self.path = path

    def file(self, image_id: int | str) -> str:
        if str(image_id) not in self._files:
            raise FlexEditError(f"{self.path} has no image with the id {image_id}")
        return self._files[str(image_id)]

    def look_up(
        self, image_id: int | str, annotation_id: int | str
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """An annotation of an image, and all others of it but crowds."""
        of_image = self._of_image[str(image_id)]
        if str(annotation_id) not in of_image:
            raise FlexEditError(
                f"the image {image_id} has no annotation with the id {annotation_id}; "
                f"it has {', '.join(of_image) or 'none'}"
            )
        found = of_image[str(annotation_id)]
        others = (one for one in of_image.values() if one is not found)
        return found, [one for one in others if not one.get("iscrowd")]

    def category(self, annotation: dict[str, Any]) -> str:
        key = str(annotation.get("category_id"))
        if key not in self._names:
            raise FlexEditError(
                f"the annotation {annotation['id']} has the category {key}, "
                f"which {self.path} does not list"
            )
        return self._names[key]


def decode(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of an annotation: polygons, or run lengths, compressed or not."""
    try:
        from pycocotools import mask as rle
    except ImportError as error:
        raise FlexEditError(
            "reading COCO annotations needs pycocotools: pip install pycocotools"
        ) from error
    shapes = annotation.get("segmentation")
    if isinstance(shapes, dict):
        if shapes.get("size") != [height, width] or "counts" not in shapes:
            raise FlexEditError(
                f"the annotation {annotation['id']} has no run lengths of its picture's height and "
                f"width {[height, width]}, but size {shapes.get('size')}; use the annotated picture"
            )
        packed = (
            shapes
            if isinstance(shapes["counts"], str)
            else rle.frPyObjects(shapes, *shapes["size"])
        )
    else:
        polygons = [flat for flat in shapes or () if len(flat) >= 6]  # x, y, x, y, …
        if not polygons:
            return np.zeros((height, width), bool)
        packed = rle.merge(rle.frPyObjects(polygons, height, width))
    return rle.decode(packed).astype(bool)
