"""Cases from any COCO-format instance annotations and pictures edited by whatever means.

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
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FlexEditError
from ..files import read_picture
from ..prompts import BACKGROUND
from .cases import OPERATIONS, SETTINGS
from .sources import (
    SUBJECT_SETTINGS,
    Draft,
    Pool,
    Slot,
    edited_region,
    require,
    shape_over,
)


@dataclass(frozen=True)
class Edit:
    """A line of the edits file."""

    line: int
    image_id: int | str
    annotation_id: int | str
    edited: str
    instruction: str
    operation: str
    result_label: str = ""
    setting: str = "none"
    subject: str | None = None
    subject_setting: str | None = None

    def __post_init__(self) -> None:
        for name in ("edited", "instruction", "result_label", "subject"):
            if not isinstance(value := getattr(self, name), str | None):
                raise FlexEditError(f"{name} is {value!r}; it must be a text")
        for name, allowed in (("operation", OPERATIONS), ("setting", SETTINGS)):
            if (value := getattr(self, name)) not in allowed:
                raise FlexEditError(f"{name} is {value!r}; it must be {' or '.join(allowed)}")
        if self.subject and self.subject_setting not in SUBJECT_SETTINGS:
            raise FlexEditError(
                f"subject_setting is {self.subject_setting!r}; it must be "
                f"{' or '.join(SUBJECT_SETTINGS)}"
            )
        if self.subject_setting and not self.subject:
            raise FlexEditError("there is a subject_setting without a subject; add one")
        if not self.instruction.strip():
            raise FlexEditError("the instruction is empty; say what should change")
        if self.operation == "remove" and self.subject:
            raise FlexEditError("a removal needs no subject; leave it out")
        if self.operation == "replace" and not self.result_label:
            raise FlexEditError("a replacement needs result_label: what is there afterwards")

    @property
    def group(self) -> str:
        return "multi" if self.subject else "single"


class CocoSource:
    """``annotations``, a COCO instances JSON of ``pictures``, and the ``edits`` file (JSONL)."""

    name = "coco"

    def __init__(self, annotations: str | Path, pictures: str | Path, edits: str | Path) -> None:
        self.annotations, self.pictures, self.edits = map(Path, (annotations, pictures, edits))

    def describe(self) -> dict[str, Any]:
        return {"annotations": self.annotations.name, "edits": self.edits.name}

    def drafts(self, slots: Sequence[Slot], seed: int) -> Iterator[Draft]:
        edits = read_edits(self.edits)
        require(slots, edits, self.edits)
        instances = Instances(self.annotations)
        pool = Pool(edits, seed)
        for slot in slots:
            edit = pool.take(slot)
            assert edit is not None
            try:
                yield self._draft(
                    edit, slot.kind, instances, np.random.default_rng([seed, edit.line])
                )
            except FlexEditError as error:
                raise FlexEditError(f"Line {edit.line} of {self.edits}: {error}") from error

    def _draft(
        self, edit: Edit, kind: str, instances: Instances, rng: np.random.Generator
    ) -> Draft:
        picture = read_picture(self.pictures / instances.file(edit.image_id))
        edited = read_picture(self.edits.parent / edit.edited)
        scene, truth = (edited, picture) if edit.operation == "add" else (picture, edited)
        annotation, others = instances.look_up(edit.image_id, edit.annotation_id)
        full_mask, *rivals = (decode(one, *picture.shape[:2]) for one in (annotation, *others))
        if not full_mask.any():
            raise FlexEditError(
                f"the mask of the annotation {annotation['id']} is empty; choose another object"
            )
        region = edited_region(scene, truth, full_mask)
        mask, orientation = shape_over(kind, full_mask, rng, rivals)
        category = instances.category(annotation)
        after = {"add": category, "remove": BACKGROUND}
        return Draft(
            name=f"{edit.line:05d}",
            operation=edit.operation,
            orientation=orientation,
            setting=edit.setting,
            scene=scene,
            mask=mask,
            full_mask=full_mask,
            truth=truth,
            region=region,
            instruction=edit.instruction,
            label=BACKGROUND if edit.operation == "add" else category,
            result_label=edit.result_label or after[edit.operation],
            subject=read_picture(self.edits.parent / edit.subject) if edit.subject else None,
            subject_setting=edit.subject_setting,
        )


def read_edits(path: Path) -> list[Edit]:
    """The lines of an edits file. Raises FlexEditError that names the first bad line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FlexEditError(f"The edits {path} cannot be read ({error}).") from error
    edits = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            edits.append(Edit(line=number, **known_keys(json.loads(line))))
        except (ValueError, FlexEditError) as error:
            raise FlexEditError(f"Line {number} of {path}: {error}") from error
    return edits


def known_keys(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise FlexEditError("a line must be one JSON object")
    keys = {field.name: field for field in fields(Edit) if field.name != "line"}
    if unknown := row.keys() - keys.keys():
        raise FlexEditError(f"unknown keys {', '.join(sorted(unknown))}; known: {', '.join(keys)}")
    needed = {name for name, field in keys.items() if field.default is MISSING}
    if missing := needed - row.keys():
        raise FlexEditError(f"missing keys {', '.join(sorted(missing))}")
    return row


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
