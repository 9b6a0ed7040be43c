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

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from ...errors import FlexEditError
from ...files import frame_of, line_of, picture_size, read_picture, read_records
from ...prompts import BACKGROUND, naming_reply
from ...validation import STRICT
from ..sample import Sample
from .annotations import Annotations
from .reader import Reader, Row, check_sizes, edited_region


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


class Coco(Reader):
    """``annotations``, a COCO instances JSON of ``pictures``, and the ``edits`` file (JSONL)."""

    name = "coco"
    skips = False

    def __init__(self, annotations: str | Path, pictures: str | Path, edits: str | Path) -> None:
        self.annotations, self.pictures, self.edits = map(Path, (annotations, pictures, edits))

    @property
    def files(self) -> Sequence[Path]:
        return self.annotations, self.edits

    @cached_property
    def rows(self) -> Sequence[Row]:
        edits = read_records(Edit, self.edits)
        self.known = Annotations.read(self.annotations)
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
        picture, edited = self.pictures / self._look_up(edit)[0], self.edits.parent / edit.edited
        check_sizes(picture_size(picture), picture_size(edited))
        if edit.subject:
            picture_size(self.edits.parent / edit.subject)

    def describe(self) -> dict[str, Any]:
        return {"annotations": self.annotations.name, "edits": self.edits.name}

    def read(self, row: Row, turn: int = 0) -> Sample:
        edit: Edit = row.content
        name, annotation, category = self._look_up(edit)
        picture = read_picture(self.pictures / name, upright=True)
        edited = read_picture(self.edits.parent / edit.edited, upright=True)
        scene, target = (edited, picture) if edit.operation == "add" else (picture, edited)
        frame = frame_of(self.pictures / name)
        object_mask = self.known.mask(annotation, frame)
        subject = self.edits.parent / edit.subject if edit.subject else None
        label = BACKGROUND if edit.operation == "add" else category
        after = {"add": category, "remove": BACKGROUND}
        return Sample(
            scene=scene,
            instruction=edit.instruction,
            operation=edit.operation,
            subject=None if subject is None else read_picture(subject, upright=True),
            target=target,
            region=edited_region(scene, target, object_mask),
            caption=edit.instruction,
            reply=naming_reply(label),
            label=label,
            result_label=edit.result_label or after[edit.operation],
            object_mask=object_mask,
            others=self.known.others(annotation, frame),
            setting=edit.setting,
            subject_setting=edit.subject_setting,
            name=f"{row.key[0]:05d}",
        )

    def _look_up(self, edit: Edit) -> tuple[str, dict[str, Any], str]:
        """File name, annotation and category"""
        image_id, annotation_id = str(edit.image_id), str(edit.annotation_id)
        image = self.known.image(image_id)
        annotation = self.known.annotations.get(annotation_id)
        if annotation is None or annotation["image_id"] != image_id:
            others = self.known.of_image.get(image_id, ())
            its = ", ".join(other["id"] for other in others) or "none"
            raise FlexEditError(
                f"the image {image_id} has no annotation with the id {annotation_id}; it has {its}"
            )
        return image["file_name"], annotation, self.known.label(annotation)
