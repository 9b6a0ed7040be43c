"""Decoupled cross-attention (eq. 7) in ComfyUI's UNet: Z' = attn(Z, f1) + λ · attn'(Z, f2); and an
interaction's residual after its first convolution.

f2 and the residual travel in the conditioning, row by row. For each call of the UNet a wrapper lays
the subject's attention over every cross-attention layer, on top of whatever other packs have put
there, and only if some row has λ ≠ 0. Keys and values are made once for a run.

B batch, R rows with a subject, T subject tokens, D width of the context, C width of a layer
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.ldm.modules.attention
import torch
import torch.nn.functional as F
from comfy.conds import CONDConstant, CONDNoiseShape, CONDRegular
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...flexedit.models.diffusion.decoupled import SubjectLayers
from ...flexedit.systems.system import subject_layers
from .parts import ManagedPart

KEY = "flexedit"
SUBJECT, ROW, STRENGTH = "flexedit_subject", "flexedit_row", "flexedit_strength"
RESIDUAL = "flexedit_residual"

KeysValues = tuple[Tensor, Tensor]
BlockKey = tuple[str, int, int]  # ("input", 4, 0): block, its number, index of the transformer


@dataclass(frozen=True, eq=False)
class Subject:
    """f2 (B, T, D). One object for all branches: only the same object lets ComfyUI batch them."""

    tokens: Tensor


def model_conds(
    subject: Subject | None, strength: Tensor, residual: Tensor | None
) -> dict[str, CONDRegular]:
    """What one branch's conditioning carries; strength λ (B,), residual (B, C0, h, w)."""
    carried: dict[str, CONDRegular] = {}
    if subject is not None:
        carried[SUBJECT] = CONDConstant(subject)
        carried[ROW] = CONDRegular(torch.arange(len(strength))[:, None])
        carried[STRENGTH] = CONDRegular(strength[:, None])
    if residual is not None:
        carried[RESIDUAL] = CONDNoiseShape(residual)
    return carried


@dataclass(frozen=True)
class Layer:
    """A cross-attention layer: diffusers name, path in ComfyUI's UNet and key of its patches."""

    name: str
    path: str
    key: BlockKey


def cross_attention_layers(names: Mapping[str, str]) -> list[Layer]:
    """``names``: diffusers → ComfyUI, for every parameter of the UNet."""
    layers = []
    for name, path in names.items():
        if name.endswith(".attn2.to_q.weight"):
            name, path = name.removesuffix(".to_q.weight"), path.removesuffix(".to_q.weight")
            kind, number, index = re.match(
                r"(input|middle|output)_block.*?\.(\d+)\..*transformer_blocks\.(\d+)", path
            ).groups()
            number = 0 if kind == "middle" else int(number)  # there it counts parts, not blocks
            layers.append(Layer(name, path, (kind, number, int(index))))
    return layers


@dataclass
class Run:
    """The keys and values of one sampling run, by subject; gone when it ends."""

    keys_values: dict[Subject, dict[BlockKey, KeysValues]] = field(default_factory=dict)


class DecoupledAttention:
    """Two wrappers: around a run, which gets a cache, and around each call of the UNet."""

    def __init__(self, mea: ManagedPart, layers: list[Layer]) -> None:
        self.mea = mea
        self.layers = layers

    def around_run(self, execute: Any, *args: Any, **kwargs: Any) -> Any:
        guider = execute.class_obj
        guider.model_options["transformer_options"][KEY] = Run()
        return execute(*args, **kwargs)

    def around_unet(
        self,
        execute: Any,
        x: Tensor,
        timesteps: Any = None,
        context: Any = None,
        y: Any = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] = {},
        **kwargs: Any,
    ) -> Any:
        subject, source, strength = (kwargs.pop(key, None) for key in (SUBJECT, ROW, STRENGTH))
        if (residual := kwargs.pop(RESIDUAL, None)) is not None:
            transformer_options = _with_residual(transformer_options, residual)
        if subject is not None and any(strengths := strength.flatten().tolist()):
            rows = torch.tensor([i for i, s in enumerate(strengths) if s], device=x.device)
            run = transformer_options.get(KEY) or Run()
            if subject not in run.keys_values:
                run.keys_values[subject] = self._keys_values(subject, execute.class_obj, x)
            transformer_options = _with_subject(
                transformer_options,
                run.keys_values[subject],
                rows,
                source.flatten()[rows],
                strength.flatten()[rows],
            )
        return execute(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _keys_values(
        self, subject: Subject, unet: nn.Module, like: Tensor
    ) -> dict[BlockKey, KeysValues]:
        """(B, T, C) each, on the UNet's device; a layer offloaded by ComfyUI works where it is."""
        own: SubjectLayers | None = subject_layers(self.mea.read().model.adapter)
        made = {}
        for layer in self.layers:
            if own is None:  # share_kv: the UNet's keys and values serve the subject too
                attention, tokens = unet.get_submodule(layer.path), subject.tokens.to(like)
                keys_values = attention.to_k(tokens), attention.to_v(tokens)
            else:
                weights = own[layer.name]
                keys_values = weights(subject.tokens.to(weights.to_k.weight))
            made[layer.key] = tuple(tensor.to(like) for tensor in keys_values)
        return made


def _with_residual(options: Mapping[str, Any], residual: Tensor) -> dict[str, Any]:
    """transformer_options that add residual (B, C0, h, w) after the first convolution."""

    def add(h: Tensor, block_options: Mapping[str, Any]) -> Tensor:
        if block_options["block"] != ("input", 0):
            return h
        fitting = residual  # a latent of another size than the scene's can be sampled, too
        if residual.shape[-2:] != h.shape[-2:]:
            fitting = F.interpolate(residual.float(), h.shape[-2:], mode="bilinear")
        return h + fitting.to(h)

    patches = options.get("patches", {})
    first = [*patches.get("input_block_patch", []), add]
    return {**options, "patches": {**patches, "input_block_patch": first}}


def _with_subject(
    options: Mapping[str, Any],
    keys_values: dict[BlockKey, KeysValues],
    rows: Tensor,
    source: Tensor,
    strength: Tensor,
) -> dict[str, Any]:
    """transformer_options whose cross-attention layers also attend to the subject."""
    replaced = options.get("patches_replace", {})
    attn2 = replaced.get("attn2", {})
    attn2 = attn2 | {
        key: SubjectPatch(attn2.get(key, attn2.get(key[:2])), pair, rows, source, strength)
        for key, pair in keys_values.items()
    }
    return {**options, "patches_replace": {**replaced, "attn2": attn2}}


@dataclass
class SubjectPatch:
    """attn2 replacement: the layer's attention, ours or another pack's, plus the subject's."""

    base: Callable[..., Tensor] | None
    keys_values: KeysValues
    rows: Tensor  # (R,) of the UNet's batch
    source: Tensor  # (R,) their rows of f2
    strength: Tensor  # (R,) λ

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, extra_options: dict[str, Any]
    ) -> Tensor:
        attend = self.base or attention
        out = attend(query, key, value, extra_options)
        key, value = (tensor[self.source] for tensor in self.keys_values)
        extra = attention(query[self.rows], key, value, extra_options)
        return out.index_add(0, self.rows, (self.strength[:, None, None] * extra).to(out.dtype))


def attention(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    """ComfyUI's attention, of the kind that the user chose."""
    return comfy.ldm.modules.attention.optimized_attention(
        query,
        key,
        value,
        options["n_heads"],
        attn_precision=options.get("attn_precision"),
        transformer_options=options,
    )


def install(
    patcher: ModelPatcher, mea: ManagedPart, names: Mapping[str, str], with_layers: bool
) -> None:
    """Lets a UNet take up what its conditioning carries; clones share it.

    with_layers: the MEA has layers for the subject, which ComfyUI loads with the UNet.
    """
    decoupled = DecoupledAttention(mea, cross_attention_layers(names))
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, decoupled.around_run)
    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, decoupled.around_unet)
    if with_layers:
        patcher.set_additional_models(KEY, [mea.read()])
