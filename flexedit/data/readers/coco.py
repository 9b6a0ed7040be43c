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

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from ...errors import FlexEditError
from ...files import line_of, picture_size, read_picture, read_records
from ...prompts import BACKGROUND, naming_reply
from ...validation import STRICT
from ..sample import Sample
from .reader import Row, check_sizes, edited_region

if TYPE_CHECKING:
    from pycocotools.coco import COCO

FAR = 10  # picture sizes; no honest polygon lies farther out
IDS = {"images": ["id"], "annotations": ["id", "image_id", "category_id"], "categories": ["id"]}


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
        self.instances = instances_of(self.annotations)
        rows = [
            Row(line_of(self.edits, line), (line,), edit, edit.operation, edit.group)
            for line, edit in edits.items()
        ]
        for row in rows:
            try:
                self._check(row.content)
            except FlexEditError as error:
                raise FlexEditError(f"{row.where}: {error}") from error
        return rows

    def _check(self, edit: Edit) -> None:
        """Raises FlexEditError for what can be told without reading pixels."""
        image, _ = self._look_up(str(edit.image_id), str(edit.annotation_id))
        picture, edited = self.pictures / image["file_name"], self.edits.parent / edit.edited
        check_sizes(picture_size(picture, upright=False), picture_size(edited, upright=False))
        if edit.subject:
            picture_size(self.edits.parent / edit.subject)

    def describe(self) -> dict[str, Any]:
        return {"annotations": self.annotations.name, "edits": self.edits.name}

    def read(self, row: Row) -> Sample:
        edit, instances = row.content, self.instances
        image, annotation = self._look_up(str(edit.image_id), str(edit.annotation_id))
        picture = read_picture(self.pictures / image["file_name"])
        edited = read_picture(self.edits.parent / edit.edited)
        scene, target = (edited, picture) if edit.operation == "add" else (picture, edited)
        image["height"], image["width"] = picture.shape[:2]
        object_mask = mask_of(instances, annotation)
        if not object_mask.any():
            raise FlexEditError(
                f"the mask of the annotation {annotation['id']} is empty; choose another object"
            )
        category = instances.cats[annotation["category_id"]]["name"]
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
            others=tuple(
                mask_of(instances, other)
                for other in instances.imgToAnns[image["id"]]
                if other is not annotation and not other.get("iscrowd")
            ),
            setting=edit.setting,
            subject_setting=edit.subject_setting,
            name=f"{row.key[0]:05d}",
        )

    def _look_up(self, image_id: str, annotation_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        instances, file = self.instances, self.annotations
        image, annotation = instances.imgs.get(image_id), instances.anns.get(annotation_id)
        if image is None:
            raise FlexEditError(f"{file} has no image with the id {image_id}")
        if annotation is None or annotation["image_id"] != image_id:
            its = ", ".join(other["id"] for other in instances.imgToAnns[image_id]) or "none"
            raise FlexEditError(
                f"the image {image_id} has no annotation with the id {annotation_id}; it has {its}"
            )
        if (category := annotation["category_id"]) not in instances.cats:
            raise FlexEditError(
                f"the annotation {annotation_id} has the category {category}, "
                f"which {file} does not list"
            )
        if not isinstance(image.get("file_name"), str):
            raise FlexEditError(f"the image {image_id} has no file_name in {file}")
        if not isinstance(instances.cats[category].get("name"), str):
            raise FlexEditError(f"the category {category} has no name in {file}")
        return image, annotation


def instances_of(path: Path) -> COCO:
    """pycocotools' index of an annotation file. Ids, numbers or texts, become texts."""
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise FlexEditError(
            "reading COCO annotations needs pycocotools: pip install pycocotools"
        ) from error
    instances = COCO()
    try:
        instances.dataset = json.loads(path.read_text(encoding="utf-8"))
        for part, ids in IDS.items():
            for row in instances.dataset[part]:
                row |= {name: str(row[name]) for name in ids}
        with redirect_stdout(io.StringIO()):  # it prints what it does
            instances.createIndex()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlexEditError(
            f"{path} cannot be read as COCO-format annotations ({error!r}): it must have "
            "images, annotations and categories that refer to each other by id."
        ) from error
    return instances


def mask_of(instances: COCO, annotation: dict[str, Any]) -> np.ndarray:
    """The mask (H, W) bool of an annotation: polygons, or run lengths, compressed or not.

    Raises FlexEditError for numbers that cannot be of its picture.
    """
    image, shapes = instances.imgs[annotation["image_id"]], annotation.get("segmentation")
    size = [image["height"], image["width"]]
    if not shapes or not isinstance(shapes, list | dict):
        return np.zeros(size, bool)
    where = f"the annotation {annotation['id']}"
    if isinstance(shapes, dict):
        if shapes.get("size") != size or "counts" not in shapes:
            raise FlexEditError(
                f"{where} has no run lengths of its picture's height and width {size}, "
                f"but size {shapes.get('size')}; use the annotated picture"
            )
        return runs_mask(shapes["counts"], size, where)
    try:
        polygons = [np.array(flat, float) for flat in shapes]
        far = FAR * max(size)
        wrong = any(flat.ndim != 1 or not (np.abs(flat) <= far).all() for flat in polygons)
    except (TypeError, ValueError, OverflowError):
        wrong = True
    if wrong:
        raise FlexEditError(f"{where} has polygons that are no lists of numbers near its picture")
    shapes = [flat.tolist() for flat in polygons if len(flat) >= 6]  # x, y, x, y, …
    if not shapes:
        return np.zeros(size, bool)
    return instances.annToMask({**annotation, "segmentation": shapes}).astype(bool)


def runs_mask(counts: Any, size: list[int], where: str) -> np.ndarray:
    """Run lengths, which go down the columns and begin with what is outside → (H, W) bool"""
    height, width = size
    try:
        lengths = unpacked(counts) if isinstance(counts, str) else [int(count) for count in counts]
    except (TypeError, ValueError, OverflowError) as error:
        raise FlexEditError(f"{where} has run lengths that are no numbers") from error
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        raise FlexEditError(
            f"{where} has run lengths that do not add up to its picture's {height * width} pixels"
        )
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def unpacked(text: str) -> list[int]:
    """COCO's text of run lengths: each in 5 bits a character, least first, the last with its sign;
    from the fourth on, what is more than two before.
    """
    lengths: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is none of its characters")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last of this number
            number -= (bits & 16) << (shift - 4)
            lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
            number = shift = 0
    return lengths
