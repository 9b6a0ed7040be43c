"""The diffusion UNet that reads the scene's latent beside the noisy one, with decoupled
cross-attention (eq. 4 and 7).

B batch, L query positions, Q edit embeddings, T subject tokens, D context width, C layer width
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FlexEditError
from .mea import MEA, Conditioning, SubjectLayers, attention


@dataclass
class Subject:
    """The subject's part of eq. 7 for the rows that have one; keys and values are computed once.

    tokens f2 (R, T, D) and strength λ (R,) belong to ``rows`` (R,) of the UNet's batch.
    """

    tokens: Tensor
    strength: Tensor
    rows: Tensor
    layers: SubjectLayers | None  # None: the UNet's own to_k, to_v serve the subject (share_kv)
    cache: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, conditioning: Conditioning, layers: SubjectLayers | None) -> Subject | None:
        """Keeps only the rows with λ ≠ 0; None if there are none."""
        if conditioning.f2 is None:
            return None
        rows = conditioning.strength.nonzero().flatten()
        if not len(rows):
            return None
        return cls(conditioning.f2[rows], conditioning.strength[rows], rows, layers)

    def keys_values(self, name: str, attn: nn.Module) -> tuple[Tensor, Tensor]:
        if name not in self.cache:
            if self.layers is None:
                self.cache[name] = attn.to_k(self.tokens), attn.to_v(self.tokens)  # type: ignore[operator]
            else:
                self.cache[name] = self.layers[name](self.tokens)
        return self.cache[name]


class DecoupledAttention:
    """diffusers attention processor: Z' = attn(Z, f1) + λ · attn'(Z, f2) (eq. 7)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Subject | None],
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        f1, subject = encoder_hidden_states
        query = attn.to_q(hidden_states)
        out = attention(query, attn.to_k(f1), attn.to_v(f1), attn.heads)
        if subject is not None:
            key, value = subject.keys_values(self.name, attn)
            extra = attention(query[subject.rows], key, value, attn.heads)
            strength = subject.strength[:, None, None].to(out.dtype)
            out = out.index_add(0, subject.rows, (strength * extra).to(out.dtype))
        return attn.to_out[0](out)


def build_unet(config: dict[str, Any]) -> Any:
    """The untrained diffusers UNet that the ``unet`` section of a system's config describes."""
    from diffusers import UNet2DConditionModel

    try:
        return UNet2DConditionModel.from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        raise FlexEditError(
            f"The 'unet' section of flexedit.json describes no UNet ({error}). "
            "Download or export the model again."
        ) from error


def cross_attention_layers(unet: nn.Module) -> dict[str, int]:
    """Each cross-attention layer of a diffusers UNet, in its own order → the layer's width C."""
    return {
        name: module.get_submodule("to_q").out_features
        for name, module in unet.named_modules()
        if name.endswith(".attn2")
    }


class FlexEditUNet(nn.Module):
    """diffusers' UNet2DConditionModel, its cross-attention layers decoupled."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.unet = build_unet(config)
        for name, module in self.unet.named_modules():
            if name.endswith(".attn2"):
                module.set_processor(DecoupledAttention(name))

    @property
    def layers(self) -> dict[str, int]:
        return cross_attention_layers(self.unet)

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        mea: MEA | None = None,
        subject: Subject | None = None,
    ) -> Tensor:
        """noisy z_t (B, C, h, w), timesteps (B,) → prediction (B, C, h, w).

        A ``subject`` made once serves all steps of a run; without one it is made from f2 and λ.
        """
        if subject is None:
            subject = Subject.of(conditioning, mea.subject if mea is not None else None)
        sample = torch.cat([noisy, conditioning.scene_latent.to(noisy.dtype)], dim=1)
        context = (conditioning.f1.to(noisy.dtype), subject)
        return self.unet(sample, timesteps, encoder_hidden_states=context).sample
