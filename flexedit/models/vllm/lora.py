"""LoRA and the edit tokens' rows, by peft, under the checkpoint's own names (§3.1, eq. 2)."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from .base import VLLM, LoRAConfig


def attach(vllm: VLLM, config: LoRAConfig | None) -> list[nn.Parameter]:
    """Freezes the VLLM but for the new tokens' rows, and adds LoRA to its language model's q and v
    if there is a ``config`` of it.

    Returns the parameters to train.
    """
    from peft import LoraConfig, TrainableTokensConfig, get_peft_model

    layers = ["embed_tokens"] if vllm.tied else ["embed_tokens", "lm_head"]
    vllm.requires_grad_(False)
    if config is None:
        settings = TrainableTokensConfig(token_indices=vllm.edit_ids, target_modules=layers)
    else:
        settings = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=re.escape(vllm.family.language_model)
            + r"\.layers\.\d+\.self_attn\.[qv]_proj",
            trainable_token_indices=dict.fromkeys(layers, vllm.edit_ids),
        )
    get_peft_model(vllm.model, settings)
    return [parameter for parameter in vllm.parameters() if parameter.requires_grad]


def weights(vllm: VLLM) -> dict[str, Tensor]:
    """``<layer>.<q|v>.<A|B>`` → tensor, of a VLLM with LoRA attached."""
    named = {}
    for name, projection in vllm.attention_projections():
        layer: Any = projection  # which peft has wrapped, if LoRA is attached to it
        if hasattr(layer, "lora_A"):
            named[f"{name}.A"] = layer.lora_A["default"].weight
            named[f"{name}.B"] = layer.lora_B["default"].weight
    return named


def checkpoint(vllm: VLLM) -> dict[str, Tensor]:
    """All that FlexEdit trains of it, under the checkpoint's names."""
    tensors = {f"lora.{name}": weight for name, weight in weights(vllm).items()}
    return tensors | {f"tokens.{name}": rows for name, rows in vllm.token_rows().items()}


@torch.no_grad()
def load(vllm: VLLM, tensors: dict[str, Tensor], rows: dict[str, Tensor]) -> None:
    """Takes up LoRA weights and token rows that an earlier run trained."""
    for name, weight in weights(vllm).items():
        weight.copy_(tensors[name])
    for name, trained in vllm.token_rows().items():
        trained.copy_(rows[name])
