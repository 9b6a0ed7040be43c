"""Mask Enhanced Adapter: what the UNet's cross-attention reads (§3.2).

Scene features f1 are the edit embeddings e, enriched by attending to the marked scene (eq. 6);
subject features f2 are the subject's CLIP tokens through a linear layer; each cross-attention
layer of the UNet gets keys and values of its own for f2 (eq. 7).

B batch, Q edit embeddings, T tokens of one picture, D width of the context, C a UNet layer's width
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import MEAConfig


def attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Multi-head softmax(QKᵀ/√d)V: (B, L, C), (B, S, C), (B, S, C) → (B, L, C)"""
    query, key, value = (
        rearrange(x, "b n (h c) -> b h n c", h=num_heads) for x in (query, key, value)
    )
    out = F.scaled_dot_product_attention(query, key, value)
    return rearrange(out, "b h n c -> b n (h c)")


class SceneAttention(nn.Module):
    """Cross-attention of eq. 6: queries from e, keys and values from the marked scene x1."""

    def __init__(self, config: MEAConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.to_q = nn.Linear(config.width, config.width, bias=False)
        self.to_k = nn.Linear(config.clip_width, config.width, bias=False)
        self.to_v = nn.Linear(config.clip_width, config.width, bias=False)
        self.to_out = nn.Linear(config.width, config.width)
        if config.residual:  # the adapter starts as the identity
            nn.init.zeros_(self.to_out.weight)
            nn.init.zeros_(self.to_out.bias)

    def forward(self, e: Tensor, scene_tokens: Tensor) -> Tensor:
        """e (B, Q, D), scene_tokens (B, T, D_clip) → (B, Q, D)"""
        query, key, value = self.to_q(e), self.to_k(scene_tokens), self.to_v(scene_tokens)
        return self.to_out(attention(query, key, value, self.num_heads))


class SubjectAttention(nn.Module):
    """Keys and values of f2 for one cross-attention layer of the UNet (K₂, V₂ of eq. 7)."""

    def __init__(self, width: int, layer_width: int) -> None:
        super().__init__()
        self.to_k = nn.Linear(width, layer_width, bias=False)
        self.to_v = nn.Linear(width, layer_width, bias=False)

    def forward(self, f2: Tensor) -> tuple[Tensor, Tensor]:
        """f2 (B, T, D) → key, value (B, T, C)"""
        return self.to_k(f2), self.to_v(f2)


class SubjectLayers(nn.Module):
    """One SubjectAttention per cross-attention layer, kept under the layer's diffusers name."""

    def __init__(self, width: int, layers: Mapping[str, int]) -> None:
        super().__init__()
        self.names = tuple(layers)
        for name, layer_width in layers.items():
            *path, leaf = name.split(".")
            parent: nn.Module = self
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(leaf, SubjectAttention(width, layer_width))

    def __getitem__(self, name: str) -> SubjectAttention:
        return self.get_submodule(name)  # type: ignore[return-value]

    def items(self) -> Iterator[tuple[str, SubjectAttention]]:
        return ((name, self[name]) for name in self.names)


@dataclass(frozen=True)
class Conditioning:
    """What one guidance branch gives the UNet.

    f1 (B, Q, D) · f2 (B, T, D) or None · strength λ (B,), 0 for rows without a subject ·
    scene_latent (B, C, h, w), unscaled; zeros where the scene is dropped
    """

    f1: Tensor
    f2: Tensor | None
    strength: Tensor
    scene_latent: Tensor


@dataclass(frozen=True)
class Branches:
    """The three guidance branches, the same in training dropout and in sampling."""

    positive: Conditioning
    scene_only: Conditioning
    negative: Conditioning

    def __iter__(self) -> Iterator[Conditioning]:
        return iter((self.positive, self.scene_only, self.negative))


class MEA(nn.Module):
    """``layers``: diffusers name of each cross-attention layer of the UNet → its width C."""

    null_edit: Tensor

    def __init__(self, config: MEAConfig, context_length: int, layers: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        # first, so that a seed gives the same one with and without the others
        self.subject_linear = nn.Linear(config.clip_width, config.width) if config.subject else None
        self.scene = SceneAttention(config) if config.cross_attention else None
        own_layers = config.subject and config.decoupled and not config.share_kv
        self.subject = SubjectLayers(config.width, layers) if own_layers else None
        # e∅, the CLIP text embedding of "": what the edit is dropped to
        self.register_buffer("null_edit", torch.zeros(context_length, config.width))

    @torch.no_grad()
    def start_from(self, unet: nn.Module) -> None:
        """The subject's keys and values start as the UNet's own (eq. 7 shares W_k2 and W_v2)."""
        for name, layer in self.subject.items() if self.subject is not None else ():
            attention_layer: Any = unet.get_submodule(name)
            layer.to_k.weight.copy_(attention_layer.to_k.weight)
            layer.to_v.weight.copy_(attention_layer.to_v.weight)

    def scene_features(self, e: Tensor, scene_tokens: Tensor) -> Tensor:
        """e (B, Q, D), scene_tokens (B, T, D_clip) → f1 (B, Q, D) (eq. 6)"""
        if self.scene is None:
            return e
        attended = self.scene(e, scene_tokens)
        return e + attended if self.config.residual else attended

    def subject_features(self, subject_tokens: Tensor) -> Tensor:
        """subject_tokens (B, T, D_clip) → f2 (B, T, D)"""
        assert self.subject_linear is not None, "the system has no subject"
        return self.subject_linear(subject_tokens)

    def null(self, batch: int) -> Tensor:
        """e∅ for a batch: (B, Q, D)"""
        return self.null_edit.expand(batch, -1, -1)

    def branches(
        self,
        e: Tensor,
        scene_tokens: Tensor,
        subject_tokens: Tensor | None,
        strength: Tensor,
        scene_latent: Tensor,
    ) -> Branches:
        """The three branches of guidance; strength λ (B,) is 0 for rows without a subject.

        positive = (e, CA with x1, f2, λ) · scene-only = (e∅, CA with x1, f2 = 0) ·
        negative = (e∅ without CA, f2 = 0, zero latent). Dropping the edit drops the subject.
        """
        null, off = self.null(e.shape[0]).to(e.dtype), torch.zeros_like(strength)
        f2 = None
        if subject_tokens is not None and self.config.subject:
            f2 = self.subject_features(subject_tokens)
        elif self.config.subject and not self.config.decoupled:
            # their place stays: a row's context must not depend on the rows beside it
            f2 = e.new_zeros(*scene_tokens.shape[:2], self.config.width)
        return Branches(
            self.conditioning(self.scene_features(e, scene_tokens), f2, strength, scene_latent),
            self.conditioning(self.scene_features(null, scene_tokens), f2, off, scene_latent),
            self.conditioning(null, f2, off, torch.zeros_like(scene_latent)),
        )

    def conditioning(
        self, f1: Tensor, f2: Tensor | None, strength: Tensor, scene_latent: Tensor
    ) -> Conditioning:
        """Without DCA the subject's tokens join the context, weighted by λ, and f2 is spent."""
        if not self.config.decoupled and f2 is not None:
            f1 = torch.cat([f1, f2 * strength[:, None, None]], dim=1)
            f2 = None
        return Conditioning(f1, f2, strength, scene_latent)
