"""One edit as arrays: a scene, what is said about it, and what should come of it.

H × W the scene's size in pixels
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .record import DRAWN

if TYPE_CHECKING:
    from torch import Tensor

    from ..request import EditRequest


@dataclass(frozen=True)
class Sample:
    """What a source does not know, or what an edit does not have, is None (a text: "")."""

    scene: np.ndarray  # (H, W, 3) uint8
    instruction: str  # what a person types; rarely names the object meant
    task: str = "edit"  # edit, segment or ask
    operation: str = "edit"  # what kind of edit: add, replace, remove, …
    mask: np.ndarray | None = None  # (H, W) bool, the scribble; if brought to a size, float32
    kind: str = DRAWN  # one of masks.KINDS, masks.RANDOM_WALK, FULL_MASK or DRAWN
    rotation: float | None = None  # degrees clockwise by which the mask is turned, if it is a shape
    subject: np.ndarray | None = None  # (h, w, 3) uint8, a picture of the thing to insert
    # what a perfect edit makes of it, and a perfect VLLM
    target: np.ndarray | None = None  # (H, W, 3) uint8; a question has none
    region: np.ndarray | None = None  # (H, W) bool: outside it target equals scene
    caption: str = ""  # the instruction, naming everything
    reply: str = ""  # what the VLLM should say, without edit tokens
    label: str = ""  # the object the mask means; "background" for an empty place
    result_label: str = ""  # what is at the place afterwards
    # what is known about the scene
    object_mask: np.ndarray | None = None  # (H, W) bool, all of the object meant, or of the added
    others: tuple[np.ndarray, ...] = ()  # (H, W) bool each, objects that are not meant
    setting: str = "none"  # indoor, outdoor or none
    subject_setting: str | None = None  # "simple": the subject alone; "complex": busy background
    classes: np.ndarray | None = None  # (H, W) uint8: 0 background, 1 + index in CLASSES
    result_classes: np.ndarray | None = None  # the same of the target
    subject_classes: np.ndarray | None = None  # the same of the subject
    name: str = ""  # unique in its source
    source: str = ""  # the data set of a mixture that it is from
    # what a reader leaves to `Edits`, which draws a colour and words for it: whom to segment. None:
    # the instruction says it all; "": the mask alone does
    expression: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()  # bad rows whose place it has, and why they are bad
    features: dict[str, np.ndarray] | None = None  # what a model in training has made of it before


def request_of(samples: Sequence[Sample]) -> EditRequest:
    """What a person asks by samples of one size."""
    from ..request import EditRequest

    has_subject = tuple(sample.subject is not None for sample in samples)
    subjects = (known(sample.subject, sample.scene) for sample in samples)
    nothing = np.zeros(samples[0].scene.shape[:2], bool)
    return EditRequest(
        scene=pictures(sample.scene for sample in samples),
        mask=stack(known(sample.mask, nothing) for sample in samples).float(),
        instructions=tuple(sample.instruction for sample in samples),
        tasks=tuple(sample.task for sample in samples),
        subject=pictures(subjects) if any(has_subject) else None,
        has_subject=has_subject,
    )


def known(array: np.ndarray | None, default: np.ndarray) -> np.ndarray:
    return default if array is None else array


def pictures(arrays: Iterable[np.ndarray]) -> Tensor:
    """uint8 (H, W, 3) arrays → (B, 3, H, W) in 0..1"""
    return stack(arrays).permute(0, 3, 1, 2).float() / 255


def stack(arrays: Iterable[Any]) -> Tensor:
    import torch

    return torch.from_numpy(np.stack(list(arrays)))
