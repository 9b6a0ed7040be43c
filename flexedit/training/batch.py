"""From samples to batches: tensors, texts and per-row switches.

B batch, H × W pixels. Row i of step s is always sample s·B + i, so a run that resumes, or that is
shared by several processes, sees the same data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.edits import said_of
from ..data.sample import Sample, known, pictures, request_of, stack
from ..errors import FlexEditError
from ..request import EditRequest


class Samples(Protocol):
    """An endless sequence of samples: `World`, `Edits`, `Mixture`."""

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class Batch:
    """request · captions and replies per row · target (B, 3, H, W), the scene for questions ·
    has_target (B,), 0 for questions and captions · has_caption (B,), 0 for questions ·
    region (B, H, W), where the target differs ·
    object_mask (B, H, W) · classes, result_classes, subject_classes (B, H, W) of scene, target and
    the request's subject, 0 background

    features: what the model has made of these rows before, by name (B, …) (`cache`)

    What a sample's source does not know of masks and classes is 0.
    """

    request: EditRequest
    captions: tuple[str, ...]
    replies: tuple[str, ...]
    target: Tensor
    has_target: Tensor
    has_caption: Tensor
    region: Tensor
    object_mask: Tensor
    classes: Tensor
    result_classes: Tensor
    subject_classes: Tensor
    samples: tuple[Sample, ...]
    features: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor | EditRequest)
        }
        moved["features"] = {name: value.to(device) for name, value in self.features.items()}
        return replace(self, **moved)


def collate(samples: Sequence[Sample]) -> Batch:
    nothing = np.zeros(samples[0].scene.shape[:2], np.uint8)
    shown = [known(sample.classes, nothing) for sample in samples]
    return Batch(
        request=request_of(samples),
        captions=tuple(sample.caption for sample in samples),
        replies=tuple(sample.reply for sample in samples),
        target=pictures(known(sample.target, sample.scene) for sample in samples),
        has_target=torch.tensor([float(sample.target is not None) for sample in samples]),
        has_caption=torch.tensor([float(sample.task != "ask") for sample in samples]),
        region=stack(known(sample.region, nothing) for sample in samples).float(),
        object_mask=stack(known(sample.object_mask, nothing) for sample in samples).float(),
        classes=stack(shown).long(),
        result_classes=stack(known(sample.result_classes, nothing) for sample in samples).long(),
        subject_classes=stack(
            known(sample.subject_classes, scene)
            for sample, scene in zip(samples, shown, strict=True)
        ).long(),
        samples=tuple(samples),
        features={
            name: stack((sample.features or {})[name] for sample in samples)
            for name in samples[0].features or {}
        },
    )


class _Rows(Dataset):
    """Samples; an error is handed on as one, for a worker would raise it with its traceback."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> Sample | FlexEditError:
        try:
            return self.samples[index]
        except FlexEditError as error:
            return error


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

    Raises the FlexEditError of a sample that cannot be made, and one for more bad rows than the
    samples' ``max_bad``.
    """
    assert batch_size % ranks == 0
    share = batch_size // ranks
    starts = (step * batch_size + rank * share for step in range(first_step, last_step))
    batches = DataLoader(
        _Rows(samples),
        batch_sampler=(list(range(start, start + share)) for start in starts),
        collate_fn=_collate_or_error,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    # made now: its making draws a number from torch's generator
    return _without_errors(iter(batches), getattr(samples, "max_bad", 0))


def _without_errors(batches: Iterator[Batch | FlexEditError], max_bad: int) -> Iterator[Batch]:
    """The batches, and at the end a warning with what was bad in them."""
    bad: dict[str, str] = {}
    try:
        for batch in batches:
            if isinstance(batch, FlexEditError):
                raise batch
            for sample in batch.samples:
                bad |= {f"{sample.source}, {where}": why for where, why in sample.skipped}
            if len(bad) > max_bad:
                raise FlexEditError(
                    f"More than {max_bad} rows could not be used. {said_of(bad)} Mend the data, "
                    "or raise max_bad."
                )
            yield batch
    finally:
        if bad:
            logging.getLogger(__name__).warning("rows that were passed over: %s", said_of(bad))


def _collate_or_error(samples: Sequence[Any]) -> Batch | FlexEditError:
    error = next((sample for sample in samples if isinstance(sample, FlexEditError)), None)
    return collate(samples) if error is None else error
