"""From samples to batches: tensors, texts and per-row switches.

B batch, H × W pixels. Row i of step s is always sample s·B + i, so a run that resumes, or that is
shared by several processes, sees the same data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data.world import Sample
from ..errors import FlexEditError
from ..request import EditRequest


class Samples(Protocol):
    """An endless sequence of samples: `World`, `Edits`."""

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class Batch:
    """request · captions and replies per row · target (B, 3, H, W), the scene for questions ·
    has_target (B,), 0 for questions · region (B, H, W), where the target differs ·
    object_mask (B, H, W) · classes, result_classes, subject_classes (B, H, W) of scene, target and
    the request's subject, 0 background
    """

    request: EditRequest
    captions: tuple[str, ...]
    replies: tuple[str, ...]
    target: Tensor
    has_target: Tensor
    region: Tensor
    object_mask: Tensor
    classes: Tensor
    result_classes: Tensor
    subject_classes: Tensor
    samples: tuple[Sample, ...]

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.request.to(device),
            self.captions,
            self.replies,
            self.target.to(device),
            self.has_target.to(device),
            self.region.to(device),
            self.object_mask.to(device),
            self.classes.to(device),
            self.result_classes.to(device),
            self.subject_classes.to(device),
            self.samples,
        )


def collate(samples: Sequence[Sample]) -> Batch:
    scenes = pictures(sample.scene for sample in samples)
    has_subject = tuple(sample.subject is not None for sample in samples)
    subject = None
    if any(has_subject):
        subject = pictures(
            sample.scene if sample.subject is None else sample.subject for sample in samples
        )
    request = EditRequest(
        scene=scenes,
        mask=stack(sample.mask for sample in samples),
        instructions=tuple(sample.instruction for sample in samples),
        tasks=tuple(sample.task for sample in samples),
        subject=subject,
        has_subject=has_subject,
    )
    return Batch(
        request=request,
        captions=tuple(sample.caption for sample in samples),
        replies=tuple(sample.reply for sample in samples),
        target=pictures(
            sample.scene if sample.target is None else sample.target for sample in samples
        ),
        has_target=torch.tensor([float(sample.target is not None) for sample in samples]),
        region=stack(
            np.zeros_like(sample.object_mask) if sample.region is None else sample.region
            for sample in samples
        ),
        object_mask=stack(sample.object_mask for sample in samples),
        classes=class_maps(sample.classes for sample in samples),
        result_classes=class_maps(sample.result_classes for sample in samples),
        subject_classes=class_maps(
            sample.classes if sample.subject_classes is None else sample.subject_classes
            for sample in samples
        ),
        samples=tuple(samples),
    )


def pictures(arrays: Any) -> Tensor:
    """uint8 (H, W, 3) arrays → (B, 3, H, W) in 0..1"""
    stacked = torch.from_numpy(np.stack(list(arrays)))
    return stacked.permute(0, 3, 1, 2).float() / 255


def stack(masks: Any) -> Tensor:
    return torch.from_numpy(np.stack(list(masks))).float()


def class_maps(arrays: Any) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays))).long()


class _Rows(Dataset):
    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> Sample | FlexEditError:
        try:
            return self.samples[index]
        except FlexEditError as error:  # raised in a worker, it would come as its traceback
            return error


class _Steps(Sampler):
    """Sample indices of this process's share of every step, from ``first_step`` on."""

    def __init__(self, first_step: int, last_step: int, batch: int, rank: int, ranks: int) -> None:
        self.steps = range(first_step, last_step)
        self.batch, self.rank, self.ranks = batch, rank, ranks

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch // self.ranks
        for step in self.steps:
            start = step * self.batch + self.rank * share
            yield list(range(start, start + share))


def loader(
    samples: Samples,
    batch_size: int,
    first_step: int,
    last_step: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Batches of the global size ``batch_size`` (this process's share of each), in order.

    Raises the FlexEditError of a sample that cannot be made.
    """
    assert batch_size % ranks == 0
    batches = DataLoader(
        _Rows(samples),
        batch_sampler=_Steps(first_step, last_step, batch_size, rank, ranks),
        collate_fn=_collate_or_error,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    return _or_error(iter(batches))  # now: its making draws a number from torch's generator


def _or_error(batches: Iterator[Batch | FlexEditError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, FlexEditError):
            raise batch
        yield batch


def _collate_or_error(samples: Sequence[Sample | FlexEditError]) -> Batch | FlexEditError:
    good = [sample for sample in samples if isinstance(sample, Sample)]
    if len(good) == len(samples):
        return collate(good)
    return next(sample for sample in samples if isinstance(sample, FlexEditError))
