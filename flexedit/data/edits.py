"""One's own edits to train on: a folder of pictures, and an index that says what each of them is.

``index.jsonl`` has a JSON object a line, as ``flexedit data`` writes it. H × W the scene's size
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .. import files, masks, prompts
from ..config import build_lines
from ..errors import FlexEditError
from ..models.preprocess import CLIP_MEAN
from ..request import Task
from .world.objects import paint_color
from .world.words import CAPTIONS
from .world.world import FULL_MASK, Sample, choose_kind

INDEX = "index.jsonl"
PAINT = "red"  # as prompts.SEGMENT_INSTRUCTION says
DRAWN = "drawn"  # a kind: a scribble of somebody's own
Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Row:
    """One line of the index. Pictures are paths, from the folder on; "" is none."""

    scene: str
    instruction: str = ""  # what a person types
    target: str = ""  # the result
    mask: str = ""  # the scribble
    object_mask: str = ""  # the whole object that it means: without a mask, scribbles are drawn
    subject: str = ""  # a picture of the thing to insert
    region: str = ""  # where target differs from scene: it counts twice
    task: Task = "edit"
    label: str = ""  # what the mask means
    reply: str = ""  # what the VLLM should say; default: that the mask means the label
    caption: str = ""  # the same, naming everything; default: the instruction
    # what `flexedit data` notes besides
    index: int = 0
    kind: str = DRAWN
    operation: str = ""

    def complaint(self) -> str:
        if not self.scene:
            return "the scene is missing."
        if not (self.mask or self.object_mask):
            return "there is neither a mask nor an object_mask. Give one of them."
        if self.task == "edit" and not (self.instruction.strip() and self.target):
            return "an edit needs an instruction and a target."
        if self.task == "segment" and not (self.target or self.object_mask):
            return "to segment needs a target, or an object_mask to paint."
        if self.task == "segment" and not self.target and self.instruction:
            return f"leave out the instruction: without a target the object is painted {PAINT}."
        if self.task == "ask" and not (self.label or self.reply):
            return "a question needs a reply, or a label."
        if self.task == "ask" and self.target:
            return "a question has no target."
        return ""

    @property
    def pictures(self) -> dict[str, str]:
        names = ("scene", "target", "mask", "object_mask", "subject", "region")
        return {name: path for name in names if (path := getattr(self, name))}


class Edits:
    """An endless sequence of samples: `edits[index]`, all rows in another order each time round.

    Every sample is a square of ``size`` pixels a side, cut so that the mask is in it; the subject
    is whole. A row without a mask gets another scribble over its object each time: one of the
    kinds, a random walk, or the object itself.
    """

    def __init__(self, folder: str | Path, size: int, seed: int = 0) -> None:
        """Reads the index, and of every picture the size.

        Raises FlexEditError for a missing or empty index, for a row that is not complete, and for
        a picture that is missing, unreadable, or of another size than its scene.
        """
        self.folder, self.size, self.seed = Path(folder), size, seed
        found = build_lines(Row, self.folder / INDEX)
        for where, row in found:
            if complaint := row.complaint():
                raise FlexEditError(f"{where}: {complaint}")
        self.rows = tuple(row for _, row in found)
        size_of = cache(lambda path: files.picture_size(self.folder / path))
        for row in self.rows:
            height, width = size_of(row.scene)
            for name, path in row.pictures.items():
                own = size_of(path)
                fits = {"subject": True, "target": own == (height, width)}
                if not fits.get(name, files.same_shape(own, (height, width))):
                    raise FlexEditError(
                        f"{path} has {own[1]}×{own[0]} pixels, but its scene {row.scene} "
                        f"{width}×{height}, as their camera was held. A {name} must lie over it."
                    )

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        turn, place = divmod(index, len(self.rows))
        row = self.rows[order(self.seed, turn, len(self.rows))[place]]
        scene = self._picture(row.scene)
        whole = {
            name: self._mask(getattr(row, name), scene.shape[:2])
            for name in ("mask", "object_mask", "region")
            if getattr(row, name)
        }
        meant = "mask" if row.mask else "object_mask"
        if not whole[meant].any():
            file = self.folder / row.pictures[meant]
            raise FlexEditError(f"{file} is empty: there is nothing white in it.")
        box = square(whole[meant], rng)
        shares = {name: shrink_mask(mask, box, self.size) for name, mask in whole.items()}
        cut = {name: (s > 0) & (s >= min(0.5, s.max())) for name, s in shares.items()}
        scene = shrink(scene, box, self.size)
        nothing = np.zeros((self.size, self.size), bool)
        object_mask = cut.get("object_mask", nothing)
        mask, kind, rotation = shares.get("mask", object_mask), row.kind, None
        if not row.mask:
            kind = choose_kind(rng)
            if kind != FULL_MASK:
                mask, rotation = masks.turned_scribble(kind, object_mask, rng)
        target, region = None, cut.get("region", nothing)
        if row.target:
            target = shrink(self._picture(row.target), box, self.size)
        elif row.task == "segment":
            target, region = scene.copy(), object_mask
            target[object_mask] = paint_color(PAINT)
        subject = fit(self._picture(row.subject), self.size) if row.subject else None
        instruction = caption = row.instruction or prompts.default_instruction(row.task)
        if row.task == "segment" and not row.target and row.label:
            caption = CAPTIONS["segment"].format(old=row.label, color=PAINT)
        reply = prompts.naming_reply(row.label) if row.label else prompts.GENERIC_REPLY
        classes = nothing.astype(np.uint8)
        return Sample(
            scene=scene, mask=mask, kind=kind, task=row.task, operation=row.operation or row.task,
            instruction=instruction, caption=row.caption or caption, reply=row.reply or reply,
            label=row.label, subject=subject, target=target, region=region,
            object_mask=object_mask, classes=classes, result_classes=classes,
            subject_classes=classes, rotation=rotation, setting="none", subject_setting=None,
            result_label="",
        )  # fmt: skip

    def _picture(self, path: str) -> np.ndarray:
        return files.read_picture(self.folder / path, upright=True)

    def _mask(self, path: str, size: Any) -> np.ndarray:
        """(H, W) bool; a mask of another size is brought to the scene's."""
        mask = files.read_mask(self.folder / path)
        if mask.shape != size:
            mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.BOX))
        return mask > 0.5


@lru_cache(maxsize=2)
def order(seed: int, turn: int, count: int) -> np.ndarray:
    """In which order a turn walks through the rows."""
    return np.random.default_rng([seed, turn, count]).permutation(count)


def square(mask: np.ndarray, rng: np.random.Generator) -> Box:
    """The largest square, anywhere along the longer side where the mask (H, W) is in it; around
    one of its pixels if it is too long for that.
    """
    side = min(mask.shape)
    starts = []
    for axis, length in enumerate(mask.shape):
        begin, end = masks.extent(mask, 1 - axis)
        first, last = max(0, end - side), min(begin, length - side)
        if first > last:
            pixel = rng.choice(np.flatnonzero(mask.any(1 - axis)))
            first = last = min(max(0, int(pixel) - side // 2), length - side)
        starts.append(int(rng.integers(first, last + 1)))
    top, left = starts
    return left, top, left + side, top + side


def shrink(picture: np.ndarray, box: Box, size: int) -> np.ndarray:
    """What is in the box of a picture (H, W, 3) uint8, as (size, size, 3)"""
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image)


def shrink_mask(mask: np.ndarray, box: Box, size: int) -> np.ndarray:
    """What is in the box of a mask (H, W) bool, as (size, size) float32: a line that is thinner
    than a pixel stays, but faint.
    """
    image = Image.fromarray(mask.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))


def fit(picture: np.ndarray, size: int) -> np.ndarray:
    """A whole picture (H, W, 3) uint8 as (size, size, 3), padded as `Preprocess` would."""
    color = tuple(round(255 * mean) for mean in CLIP_MEAN)
    image = Image.fromarray(picture)
    return np.asarray(ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS, color=color))
