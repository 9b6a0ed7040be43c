"""Bidirectional Interaction Module of SmartEdit (§3.2): edit embeddings and the scene's patches
attend to each other, as in the two-way transformer of Segment Anything's decoder.

B batch, Q edit embeddings, P patches, D width of the context, V width of the vision tower
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ...validation import STRICT
from ..diffusion.decoupled import attention
from ..parts import Part, PictureTokens, check_heads
from ..preprocess import Fit, window

NUM_BLOCKS = 2
NARROWING = 2  # of attention between edit and picture
SHARE = 0.5  # of what the edit embeddings gain


class Attention(nn.Module):
    """Multi-head attention of tokens V wide, in ``inner`` channels."""

    def __init__(self, width: int, inner: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.out(attention(self.q(query), self.k(key), self.v(value), self.num_heads))


class Block(nn.Module):
    """tokens t (B, Q, V) and picture (B, P, V), each told its place by t0 and positions."""

    def __init__(self, width: int, num_heads: int, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.among_tokens = Attention(width, width, num_heads)
        self.to_picture = Attention(width, width // NARROWING, num_heads)
        self.to_tokens = Attention(width, width // NARROWING, num_heads)
        inner = 2 * width
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(
        self, t: Tensor, picture: Tensor, t0: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.is_first:  # t is t0 still
            t = self.norm1(self.among_tokens(t, t, t))
        else:
            t = self.norm1(t + self.among_tokens(t + t0, t + t0, t))
        t = self.norm2(t + self.to_picture(t + t0, picture + positions, picture))
        t = self.norm3(t + self.mlp(t))
        picture = self.norm4(picture + self.to_tokens(picture + positions, t + t0, t))
        return t, picture


class BIM(Part):
    """Both of its ways out start at zero, so that a new one changes nothing."""

    @dataclass(frozen=True, config=STRICT)
    class Config:
        width: int  # D_context
        vision_width: int  # V
        channels: int  # of the UNet's first convolution
        num_heads: int
        type: Literal["bim"] = "bim"

        def __post_init__(self) -> None:
            inner = self.vision_width // NARROWING
            check_heads("half of interaction.vision_width", inner, self.num_heads)

    prefix = "bim"

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.vision_width
        self.from_edit = nn.Linear(config.width, width)
        self.register_buffer("frequencies", torch.randn(2, width // 2))
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, is_first=index == 0) for index in range(NUM_BLOCKS)
        )
        self.last = Attention(width, width // NARROWING, config.num_heads)
        self.norm = nn.LayerNorm(width)
        self.to_edit = nn.Linear(width, config.width)
        self.to_residual = nn.Conv2d(width, config.channels, 1)
        for out in (self.to_edit, self.to_residual):
            nn.init.zeros_(out.weight)
            assert out.bias is not None
            nn.init.zeros_(out.bias)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Sines and cosines of random directions at the patches' centres: (P, V)"""
        frequencies: Tensor = self.frequencies  # type: ignore[assignment]
        centres = [(torch.arange(count, device=frequencies.device) + 0.5) / count for count in grid]
        y, x = torch.meshgrid(*centres, indexing="ij")
        place = 2 * torch.stack([x, y], dim=-1).flatten(0, 1) - 1
        angles = 2 * math.pi * place @ frequencies.float()  # of many turns, the rest counts
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(frequencies.dtype)

    def forward(
        self, e: Tensor, scene: PictureTokens, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """e (B, Q, D), the marked scene, the latent's h and w → e, residual (B, C0, h, w)"""
        t0, positions = self.from_edit(e), self.positions(scene.grid)
        t, picture = t0, scene.raw
        for block in self.blocks:
            t, picture = block(t, picture, t0, positions)
        t = self.norm(t + self.last(t + t0, picture + positions, picture))
        rows, _ = scene.grid
        seen = at_latent(rearrange(picture, "b (r c) v -> b v r c", r=rows), size, scene.fit)
        return e + SHARE * self.to_edit(t), self.to_residual(seen)


def at_latent(seen: Tensor, size: tuple[int, int], fit: Fit = "padded") -> Tensor:
    """What CLIP saw at each latent pixel of a picture that was fitted so: seen (B, V, r, c) →
    (B, V, h, w), bilinear; beside a crop its border goes on.
    """
    tall, wide = window(*size, fit)
    inside = torch.tensor([[1 / wide, 0, 0], [0, 1 / tall, 0]], device=seen.device)
    where = F.affine_grid(
        inside.expand(len(seen), -1, -1), [len(seen), 1, *size], align_corners=False
    )
    sampled = F.grid_sample(seen.float(), where, padding_mode="border", align_corners=False)
    return sampled.to(seen.dtype)
