"""Decoupled cross-attention: keys and values of its own for the subject (eq. 7).

B batch, L query positions, T subject tokens, D width of the context, C a UNet layer's width
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .conditioning import Conditioning


def attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Multi-head softmax(QKᵀ/√d)V: (B, L, C), (B, S, C), (B, S, C) → (B, L, C)"""
    query, key, value = (
        rearrange(x, "b n (h c) -> b h n c", h=num_heads) for x in (query, key, value)
    )
    out = F.scaled_dot_product_attention(query, key, value)
    return rearrange(out, "b h n c -> b n (h c)")


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

    def start_from(self, unet: nn.Module) -> None:
        """Keys and values as the UNet's own layers make them."""
        for name, layer in self.items():
            attention_layer: Any = unet.get_submodule(name)
            layer.to_k.weight.copy_(attention_layer.to_k.weight)
            layer.to_v.weight.copy_(attention_layer.to_v.weight)

    def items(self) -> Iterator[tuple[str, SubjectAttention]]:
        return ((name, self[name]) for name in self.names)


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
        if name in self.cache:
            return self.cache[name]
        if self.layers is None:
            pair = attn.to_k(self.tokens), attn.to_v(self.tokens)  # type: ignore[operator]
        else:
            pair = self.layers[name](self.tokens)
        if not torch.is_grad_enabled():  # the backward pass may compute them again
            self.cache[name] = pair
        return pair


@dataclass(frozen=True)
class Context:
    """What a cross-attention layer reads: f1 (B, L, D) and the subject of the rows that have one"""

    f1: Tensor
    subject: Subject | None


class DecoupledAttention:
    """diffusers attention processor: Z' = attn(Z, f1) + λ · attn'(Z, f2) (eq. 7)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Context,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        f1, subject = encoder_hidden_states.f1, encoder_hidden_states.subject
        query = attn.to_q(hidden_states)
        out = attention(query, attn.to_k(f1), attn.to_v(f1), attn.heads)
        if subject is not None:
            key, value = subject.keys_values(self.name, attn)
            extra = attention(query[subject.rows], key, value, attn.heads)
            strength = subject.strength[:, None, None].to(out.dtype)
            out = out.index_add(0, subject.rows, (strength * extra).to(out.dtype))
        return attn.to_out[0](out)
