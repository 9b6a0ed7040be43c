"""CLIP: pictures and text as tokens in one space (D_clip), the words MEA and the bridges speak.

B batch, T tokens of one picture (CLS and patches), S the encoder's side in pixels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .parts import PictureTokens
from .preprocess import Preprocess

RAW_LAYER = -2  # of the tower: LLaVA's and SmartEdit's


def project_tokens(states: Tensor, vision_model: nn.Module, projection: nn.Module) -> Tensor:
    """Last hidden states (B, T, D_vision) → text space (B, T, D_clip), every token.

    CLIP itself projects the pooled token alone; one token would make the softmax of eq. 6
    constant, so all of them take the same post-LayerNorm and ``visual_projection``.
    """
    return projection(vision_model.post_layernorm(states))  # type: ignore[operator]


def picture_tokens(
    states: Tensor, before_last: Tensor, vision_model: nn.Module, projection: nn.Module
) -> PictureTokens:
    """Hidden states of the last layer and of the one before it (B, T, D_vision), CLS first."""
    side = math.isqrt(states.shape[1] - 1)
    projected = project_tokens(states, vision_model, projection)
    return PictureTokens(projected, before_last[:, 1:], (side, side))


class ImageEncoder(nn.Module):
    """A transformers CLIP vision tower whose tokens are all projected to text space."""

    visual_projection: Any

    def __init__(
        self, vision_model: nn.Module, visual_projection: nn.Module, preprocess: Preprocess
    ) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.visual_projection = visual_projection
        self.preprocess = preprocess

    @property
    def vision_width(self) -> int:
        return self.visual_projection.in_features

    def forward(self, pictures: Tensor) -> PictureTokens:
        """pictures (B, 3, H, W) in 0..1"""
        pixels = self.preprocess(pictures).to(self.visual_projection.weight.dtype)
        seen = self.vision_model(pixel_values=pixels, output_hidden_states=True)
        return picture_tokens(
            seen.last_hidden_state,
            seen.hidden_states[RAW_LAYER],
            self.vision_model,
            self.visual_projection,
        )


class TextEncoder(nn.Module):
    """CLIP's text encoder: sentences → (B, Q, D_context), padded to the full length Q."""

    text_model: Any

    def __init__(self, text_model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.text_model = text_model
        self.tokenizer = tokenizer

    @property
    def length(self) -> int:
        return self.text_model.config.max_position_embeddings

    def forward(self, texts: Sequence[str]) -> Tensor:
        ids = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )["input_ids"]
        device = next(self.text_model.parameters()).device
        return self.text_model(input_ids=ids.to(device)).last_hidden_state
