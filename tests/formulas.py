"""Published formulas in plain torch, by the published names: what converted parts are held to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.released import Sizes


def near(found: Tensor, wanted: Tensor) -> None:
    """As near as weights in half precision bring it."""
    assert (found - wanted).norm() < 2e-3 * wanted.norm()


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    scaled = centred / (variance + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def heads(q: Tensor, k: Tensor, v: Tensor, count: int, causal: bool = False) -> Tensor:
    """Attention, head by head"""
    out = []
    for one in range(count):
        share = slice(one * q.shape[-1] // count, (one + 1) * q.shape[-1] // count)
        scores = q[..., share] @ k[..., share].mT / math.sqrt(q.shape[-1] // count)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        out.append(scores.softmax(-1) @ v[..., share])
    return torch.cat(out, -1)


def llama_formula(weights: dict[str, Tensor], x: Tensor, count: int, lora: bool) -> Tensor:
    """Embeddings (L, D) → states after the last norm, by the names below a prefix"""

    def norm(name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]

    def project(name: str, x: Tensor) -> Tensor:
        y = x @ weights[f"{name}.weight"].T
        if lora and name[-6] in "qv":
            a, b = (weights[f"{name}.lora_{one}.default.weight"] for one in "AB")
            y = y + 16 / 8 * (x @ a.T @ b.T)
        return y

    def turn(x: Tensor) -> Tensor:
        width = x.shape[-1] // count
        angles = torch.arange(len(x))[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        cos, sin = (torch.cat([one, one], -1)[:, None] for one in (angles.cos(), angles.sin()))
        x = x.unflatten(-1, (count, width))
        left, right = x.chunk(2, -1)
        return (x * cos + torch.cat([-right, left], -1) * sin).flatten(-2)

    for index in range(Sizes.layers):
        layer = f"layers.{index}."
        seen = norm(f"{layer}input_layernorm", x)
        q, k, v = (project(f"{layer}self_attn.{one}_proj", seen) for one in "qkv")
        seen = heads(turn(q), turn(k), v, count, causal=True)
        x = x + project(f"{layer}self_attn.o_proj", seen)
        seen = norm(f"{layer}post_attention_layernorm", x)
        gate = project(f"{layer}mlp.gate_proj", seen)
        inner = gate * gate.sigmoid() * project(f"{layer}mlp.up_proj", seen)
        x = x + project(f"{layer}mlp.down_proj", inner)
    return norm("norm", x)
