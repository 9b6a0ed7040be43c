"""What the UNet is given beside the noisy latent, for each branch of guidance.

B batch, L tokens of the context, T tokens of a subject, D width of the context, P of pooled text,
C × h × w a latent
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What one guidance branch gives the UNet.

    f1 (B, L, D) · f2 (B, T, D) or None · strength λ (B,), 0 for rows without f2 ·
    scene_latent (B, C, h, w), unscaled; zeros where the scene is dropped · residual (B, C0, h, w),
    added after the first convolution, or None · pooled (B, P) and time_ids (B, 6: height and width
    of the picture, top and left of its crop, height and width of the crop), what SDXL reads besides
    """

    f1: Tensor
    f2: Tensor | None
    strength: Tensor
    scene_latent: Tensor
    residual: Tensor | None = None
    pooled: Tensor | None = None
    time_ids: Tensor | None = None


@dataclass(frozen=True)
class Branches:
    """The three guidance branches, the same in training dropout and in sampling · what the
    adapter's own loss reads, by name.
    """

    positive: Conditioning
    scene_only: Conditioning
    negative: Conditioning
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Conditioning]:
        return iter((self.positive, self.scene_only, self.negative))
