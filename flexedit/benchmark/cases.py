"""The format of FSMI-Edit: a folder with one index, ``cases.jsonl``, and PNGs.

A row of the index is a flat JSON object, the same keys in every row, so that
``datasets.load_dataset("json", data_files="cases.jsonl")`` reads it; files are named relative to
the folder. ``benchmark.json`` beside it says which version of the format this is and how the
cases were made. H × W the size of a case's scene, B cases of one size
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic.dataclasses import dataclass

from ..data.sample import Sample, request_of
from ..errors import FlexEditError
from ..files import read_json, read_picture, read_records
from ..masks import KINDS
from ..request import EditRequest
from ..validation import STRICT

FORMAT = 1
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # an id becomes a file's name
INDEX = "cases.jsonl"
META = "benchmark.json"

Operation = Literal["add", "replace", "remove"]
Review = Literal["open", "accepted", "redrawn", "rejected"]
MaskForm = Literal["free", "full"]
OPERATIONS: tuple[str, ...] = get_args(Operation)
REVIEWS: tuple[str, ...] = get_args(Review)
FORMS: tuple[str, ...] = get_args(MaskForm)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Case:
    """One edit and its truth. Pictures and masks are PNG files; a mask is white where it holds.

    ``mask`` is the free-shape mask and ``full_mask`` its twin: all of the object meant, or all of
    what is added. ``region`` is where truth really differs from scene.
    """

    id: str  # unique in the benchmark, also the name of a system's output: <id>.png
    group: Literal["single", "multi"]  # multi: with a subject
    operation: Operation
    kind: str  # one of masks.KINDS
    orientation: int | float | None = None  # degrees clockwise by which the free shape is turned
    setting: Literal["indoor", "outdoor", "none"]  # none: a texture, or not known
    scene: str
    mask: str
    full_mask: str
    truth: str
    region: str
    subject: str | None = None
    subject_setting: str | None = None  # "simple": the subject alone; "complex": busy background
    instruction: str  # what a person says; rarely names the object meant
    label: str  # what the mask means; "background" for an empty place
    result_label: str  # what is there after the edit; "background" after a removal
    caption: str | None = None  # what the edited region shows afterwards, for CLIP-T
    source: str  # where the case is from: "world", "coco", "magicbrush", …
    review: Review = "open"
    note: str = ""  # a reviewer's remark

    def __post_init__(self) -> None:
        if not SAFE_NAME.fullmatch(self.id):
            raise ValueError(
                f"the id {self.id!r} cannot name a file. Use letters, digits, '.', '_' and '-', "
                "and begin with a letter or digit"
            )
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; choose one of {', '.join(KINDS)}")
        if (self.group == "multi") != (self.subject is not None):
            has = "no" if self.subject is None else "a"
            raise ValueError(f"the case {self.id!r} is {self.group} but has {has} subject")


FILES = ("scene", "mask", "full_mask", "truth", "region", "subject")
NAMES = tuple(field.name for field in fields(Case))


class Benchmark:
    """A benchmark on disk. Opening it reads the index, no pictures."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.meta = self._meta()
        self.cases = tuple(read_records(Case, self.folder / INDEX).values())
        if len({case.id for case in self.cases}) < len(self.cases):
            raise FlexEditError(f"{self.folder / INDEX} has two cases with the same id.")

    def _meta(self) -> dict[str, Any]:
        try:
            meta = read_json(self.folder / META)
        except FlexEditError as error:
            raise FlexEditError(
                f"{self.folder} is not a benchmark: {META} cannot be read ({error}). "
                "Make one with `python -m flexedit bench build`."
            ) from error
        found = meta.get("format") if isinstance(meta, dict) else None
        if found != FORMAT:
            raise FlexEditError(
                f"{self.folder} has format {found!r}; this FlexEdit reads {FORMAT}."
            )
        return meta

    @property
    def kept(self) -> tuple[Case, ...]:
        """All cases but the rejected ones."""
        return tuple(case for case in self.cases if case.review != "rejected")

    def files(self, case: Case) -> list[Path]:
        return [self.folder / file for name in FILES if (file := getattr(case, name)) is not None]

    def picture(self, case: Case, name: str) -> np.ndarray:
        """scene, truth or subject → (H, W, 3) uint8; mask, full_mask or region → (H, W) bool"""
        file = getattr(case, name)
        assert file is not None
        is_mask = name in ("mask", "full_mask", "region")
        try:
            array = read_picture(self.folder / file, "L" if is_mask else "RGB")
        except FlexEditError as error:
            raise FlexEditError(
                f"The case {case.id!r} has no readable {name}: {error} Build the benchmark again."
            ) from error
        return array > 127 if is_mask else array

    def request(
        self, cases: Sequence[Case], form: MaskForm = "free", task: str = "edit"
    ) -> EditRequest:
        """A batch of cases whose scenes have one size, and whose subjects have one size."""
        return request_of([self._sample(case, form, task) for case in cases])

    def _sample(self, case: Case, form: MaskForm, task: str) -> Sample:
        """What a system is told of a case."""
        edits = task == "edit"
        return Sample(
            scene=self.picture(case, "scene"),
            instruction=case.instruction if edits else "",
            task=task,
            mask=self.picture(case, "mask" if form == "free" else "full_mask"),
            subject=self.picture(case, "subject") if edits and case.subject else None,
        )

    def rewrite(self, cases: Iterable[Case]) -> None:
        """Replaces the index, atomically (a review changes rows)."""
        self.cases = tuple(cases)
        write_index(self.folder, self.cases)


def write_index(folder: Path, cases: Iterable[Case]) -> None:
    temporary = folder / (INDEX + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for case in cases:
            file.write(json.dumps(asdict(case), ensure_ascii=False) + "\n")
    os.replace(temporary, folder / INDEX)
