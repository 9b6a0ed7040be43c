"""Image-Aware Adapter of InsightEdit (§3.3): the VLLM's tokens say what the result's picture looks
like, in CLIP's words, and the UNet attends to that apart from the text.

How many tokens and which λ is not published, nor how the r tokens become one: here by their mean.
B batch, N tokens, D width of the context
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from einops import rearrange
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ...validation import STRICT
from ..diffusion.decoupled import SubjectLayers
from ..parts import Features, Part, PictureTokens, Reading, hidden_states


class IAA(Part):
    """``layers``: diffusers name of each cross-attention layer of the UNet → its width."""

    @dataclass(frozen=True, config=STRICT)
    class Config:
        width: int  # D_context
        clip_width: int  # of CLIP's picture embedding
        hidden_width: int  # D_llm
        num_tokens: int  # N
        type: Literal["iaa"] = "iaa"

        @property
        def reads_subject(self) -> bool:
            return False

        @property
        def attends_apart(self) -> bool:
            return True

    prefix = "iaa"
    own_losses = ("picture",)

    def __init__(self, config: Config, layers: Mapping[str, int]) -> None:
        super().__init__()
        self.mapper = nn.Sequential(
            nn.Linear(config.hidden_width, config.clip_width),
            nn.GELU(),
            nn.Linear(config.clip_width, config.clip_width),
        )
        self.spread = nn.Linear(config.clip_width, config.num_tokens * config.width)
        self.norm = nn.LayerNorm(config.width)
        self.num_tokens, self.hidden_width = config.num_tokens, config.hidden_width
        self.subject = SubjectLayers(config.width, layers)

    @torch.no_grad()
    def start_from(self, unet: Any) -> None:
        """Its keys and values start as the UNet's own."""
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
        """e (B, Q, D) as it is; f2 (B, N, D) from H, with the strength λ (B,) in every row"""
        states = hidden_states(reading, self.hidden_width)
        picture = self.mapper(states.mean(1).to(e))
        tokens = rearrange(self.spread(picture), "b (n d) -> b n d", n=self.num_tokens)
        return Features(e, self.norm(tokens), strength, {"picture": picture})

    def losses(self, extra: Mapping[str, Tensor], target: PictureTokens) -> dict[str, Tensor]:
        """Its picture's distance to CLIP's embedding of the result."""
        error = extra["picture"].float() - target.projected[:, 0].float()
        return {"picture": error.square().mean(-1)}
