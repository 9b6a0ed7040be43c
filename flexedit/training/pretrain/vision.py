"""The VLLM's vision tower learns what it looks at.

B batch, N pictures, T patch tokens of a picture, P patches a side
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...data.world.assets import CLASSES
from ...models.preprocess import Preprocess
from ..batch import Batch
from ..trainer import Trainee
from .shape import Shape
from .vllm import trainable_vllm


def load_vision(folder: Path, shape: Shape) -> tuple[Any, VisionPretraining]:
    vllm = trainable_vllm(folder)
    assert vllm.preprocess is not None
    tower, patches = vllm.model.model.vision_tower, shape.size // shape.patch
    return vllm.model, VisionPretraining(tower, vllm.preprocess, shape.vit_width, patches)


@dataclass(frozen=True)
class Views:
    """All that an encoder is shown of a batch: its N marked scenes and subjects.

    pictures (N, 3, H, W) in 0..1 · classes (N, H, W), 0 background · covered (N, H, W), scribbled
    """

    pictures: Tensor
    classes: Tensor
    covered: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Views:
        request = batch.request
        assert request.mask is not None
        scenes = cls(request.marked(), batch.classes, request.mask)
        if request.subject is None:
            return scenes
        rows = torch.tensor(request.has_subject, device=request.mask.device)
        return cls(
            torch.cat([scenes.pictures, request.subject[rows]]),
            torch.cat([scenes.classes, batch.subject_classes[rows]]),
            torch.cat([scenes.covered, torch.zeros_like(request.mask[rows])]),
        )


COLORS = 2  # a side of a patch: what a subject looks like has to be in its tokens
COLORS_WEIGHT = 10.0  # their squared error is that much smaller than the other losses


class DenseHead(nn.Module):
    """Per patch: which objects it shows, how much of it the scribble covers, its colours."""

    def __init__(self, width: int, patches: int) -> None:
        super().__init__()
        self.patches = patches
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, len(CLASSES) + 2)
        self.colors = nn.Linear(width, 3 * COLORS**2)

    def forward(self, tokens: Tensor, views: Views) -> dict[str, Tensor]:
        """tokens (N, 1 + P², D), CLS first"""
        tokens, side = self.norm(tokens[:, 1:]), self.patches
        output, colors = self.linear(tokens).float(), self.colors(tokens).float()
        shares = F.adaptive_avg_pool2d(
            F.one_hot(views.classes, len(CLASSES) + 1).permute(0, 3, 1, 2).float(), side
        )
        shares = rearrange(shares, "b c h w -> b (h w) c")
        covered = F.adaptive_avg_pool2d(views.covered[:, None], side).flatten(1)
        by_class = -(shares * F.log_softmax(output[..., :-1], -1)).sum(-1)
        by_mark = F.binary_cross_entropy_with_logits(output[..., -1], covered, reduction="none")
        seen = rearrange(
            F.adaptive_avg_pool2d(views.pictures, side * COLORS),
            "b c (h p) (w q) -> b (h w) (c p q)", p=COLORS, q=COLORS,
        )  # fmt: skip
        by_color = COLORS_WEIGHT * (colors - seen).square().mean(-1)
        return {
            "classes": by_class.mean(-1),
            "covered": by_mark.mean(-1),
            "colors": by_color.mean(-1),
        }


class VisionPretraining(Trainee):
    """A vision tower learns to see, patch by patch, what a picture shows."""

    def __init__(self, tower: nn.Module, preprocess: Preprocess, width: int, patches: int) -> None:
        super().__init__()
        self.tower, self.preprocess = tower, preprocess
        self.head = DenseHead(width, patches)

    def forward(self, batch: Batch, draw: None) -> dict[str, Tensor]:
        views = Views.of(batch)
        pixels = self.preprocess(views.pictures)
        return self.head(self.tower(pixel_values=pixels).last_hidden_state, views)
