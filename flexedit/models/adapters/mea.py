"""Mask Enhanced Adapter: what the UNet's cross-attention reads (§3.2).

Scene features f1 are the edit embeddings e, enriched by attending to the marked scene (eq. 6);
subject features f2 are the subject's CLIP tokens through a linear layer; each cross-attention
layer of the UNet gets keys and values of its own for f2 (eq. 7).

B batch, Q edit embeddings, T tokens of one picture, D width of the context, C a UNet layer's width
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ...validation import STRICT
from ..diffusion.decoupled import SubjectLayers, attention
from ..parts import Features, Part, PictureTokens, Reading, check_heads


@dataclass(frozen=True, config=STRICT)
class MEAConfig:
    """The adapter of §3.2, with the ablations of its tables 3 and 4 as switches."""

    width: int  # D_context, the width of f1 and f2
    clip_width: int  # width of CLIP's projected image tokens
    num_heads: int
    cross_attention: bool = True  # "CA": scene features attend to the marked scene
    decoupled: bool = True  # "DCA": a cross-attention of its own for the subject
    subject: bool = True  # False: no subject at all
    residual: bool = True  # f1 = e + W_o·attn(e, x1); False is the literal eq. 6
    share_kv: bool = False  # True is the literal eq. 7: W_k2, W_v2 serve f1 and f2
    type: Literal["mea"] = "mea"

    def __post_init__(self) -> None:
        check_heads("adapter.width", self.width, self.num_heads)

    @property
    def reads_subject(self) -> bool:
        return self.subject

    @property
    def attends_apart(self) -> bool:
        """Whether the UNet attends to f2 apart from the text."""
        return self.subject and self.decoupled


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


class MEA(Part):
    """``layers``: diffusers name of each cross-attention layer of the UNet → its width C."""

    Config = MEAConfig
    prefix = "mea"

    def __init__(self, config: MEAConfig, layers: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        # first, so that a seed gives the same one with and without the others
        self.subject_linear = nn.Linear(config.clip_width, config.width) if config.subject else None
        self.scene = SceneAttention(config) if config.cross_attention else None
        own_layers = config.subject and config.decoupled and not config.share_kv
        self.subject = SubjectLayers(config.width, layers) if own_layers else None

    @torch.no_grad()
    def start_from(self, unet: nn.Module) -> None:
        """The subject's keys and values start as the UNet's own (eq. 7 shares W_k2 and W_v2)."""
        if self.subject is not None:
            self.subject.start_from(unet)

    def forward(
        self,
        e: Tensor,
        reading: Reading,
        scene: PictureTokens,
        subject: PictureTokens | None,
        has_subject: Tensor,
        strength: Tensor,
    ) -> Features:
        """e (B, Q, D), the marked scene, the subject and which rows have one (B,), λ (B,) → f1, f2
        and λ, 0 for rows without a subject.

        Without DCA the subject's tokens join the context, weighted by λ, and f2 is spent.
        """
        strength, f2 = strength * has_subject, None
        if subject is not None and self.config.subject:
            f2 = self.subject_features(subject.projected)
        elif self.config.subject and not self.config.decoupled:
            # their place stays: a row's context must not depend on the rows beside it
            f2 = e.new_zeros(*scene.projected.shape[:2], self.config.width)
        f1 = self.scene_features(e, scene.projected)
        if f2 is not None and not self.config.decoupled:
            f1, f2 = torch.cat([f1, f2 * strength[:, None, None]], dim=1), None
        return Features(f1, f2, strength)

    def scene_features(self, e: Tensor, scene: Tensor) -> Tensor:
        """e (B, Q, D), scene (B, T, D_clip) → f1 (B, Q, D) (eq. 6)"""
        if self.scene is None:
            return e
        attended = self.scene(e, scene)
        return e + attended if self.config.residual else attended

    def subject_features(self, subject: Tensor) -> Tensor:
        """subject (B, T, D_clip) → f2 (B, T, D)"""
        assert self.subject_linear is not None, "the system has no subject"
        return self.subject_linear(subject)
