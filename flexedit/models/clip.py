"""CLIP: pictures and text as tokens in one space (D_clip), the words MEA and the bridges speak.

B batch, T tokens of one picture (CLS and patches), S the encoder's side in pixels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .parts import PictureTokens
from .preprocess import Fit, Preprocess


def project_tokens(states: Tensor, vision_model: nn.Module, projection: nn.Module) -> Tensor:
    """Last hidden states (B, T, D_vision) → text space (B, T, D_clip), every token.

    CLIP itself projects the pooled token alone; one token would make the softmax of eq. 6
    constant, so all of them take the same post-LayerNorm and ``visual_projection``.
    """
    return projection(vision_model.post_layernorm(states))  # type: ignore[operator]


def picture_tokens(
    vision_model: Any, projection: nn.Module, fit: Fit, see: Callable[[], Tensor]
) -> PictureTokens:
    """What a CLIP tower, transformers' or ComfyUI's, makes of pictures. ``see()`` runs it and gives
    the last hidden states (B, T, D_vision), CLS first; fit: how it is shown pictures.
    """
    before_last: list[Tensor] = []
    hook = vision_model.encoder.layers[-1].register_forward_pre_hook(
        lambda _, inputs: before_last.append(inputs[0].clone())  # ComfyUI adds to it in place
    )
    try:
        states = see()
    finally:
        hook.remove()
    side = math.isqrt(states.shape[1] - 1)
    projected = project_tokens(states, vision_model, projection)
    return PictureTokens(projected, before_last[0][:, 1:], (side, side), fit)


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
        return picture_tokens(
            self.vision_model,
            self.visual_projection,
            self.preprocess.fit,
            lambda: self.vision_model(pixel_values=pixels).last_hidden_state,
        )


class TextEncoder(nn.Module):
    """CLIP's text encoder: sentences → (B, Q, D_context), padded to the full length Q."""

    text_model: Any
    projection: Any

    def __init__(
        self, text_model: nn.Module, tokenizer: Any, projection: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.text_model, self.tokenizer, self.projection = text_model, tokenizer, projection

    @property
    def length(self) -> int:
        return self.text_model.config.max_position_embeddings

    @property
    def width(self) -> int:
        return self.text_model.config.hidden_size

    def forward(self, texts: Sequence[str]) -> Tensor:
        return self.states(texts).last_hidden_state

    def penultimate(self, texts: Sequence[str]) -> Tensor:
        """What the last layer but one says, (B, Q, D): SDXL stops there."""
        return self.states(texts).hidden_states[-2]

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """Each text as one vector in CLIP's joint space (B, P)"""
        assert self.projection is not None
        return self.projection(self.states(texts).pooler_output)

    def states(self, texts: Sequence[str]) -> Any:
        ids = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )["input_ids"]
        device = next(self.text_model.parameters()).device
        return self.text_model(input_ids=ids.to(device), output_hidden_states=True)


class TextEncoders(nn.Module):
    """SDXL's two, side by side: sentences → (B, Q, D₁ + D₂)."""

    def __init__(self, first: TextEncoder, second: TextEncoder) -> None:
        super().__init__()
        self.first, self.second = first, second

    @property
    def length(self) -> int:
        return self.first.length

    @property
    def width(self) -> int:
        return self.first.width + self.second.width

    def forward(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([self.first.penultimate(texts), self.second.penultimate(texts)], dim=-1)
