"""LoRA and the edit tokens' rows, by peft, under the checkpoint's own names (§3.1, eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.vllm import VLLM
from ..models.vllm.base import LoRAConfig


def attach(vllm: VLLM, config: LoRAConfig) -> list[nn.Parameter]:
    """Freezes the VLLM and adds LoRA to its language model's q and v, and to the new token rows.

    Returns the parameters to train.
    """
    from peft import LoraConfig, get_peft_model

    tokens = {"embed_tokens": vllm.edit_ids}
    if not vllm.tied:
        tokens["lm_head"] = vllm.edit_ids
    vllm.requires_grad_(False)
    get_peft_model(
        vllm.model,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=r".*language_model.*\.(q_proj|v_proj)",
            trainable_token_indices=tokens,
        ),
    )
    return [parameter for parameter in vllm.parameters() if parameter.requires_grad]


def weights(vllm: VLLM) -> dict[str, Tensor]:
    """``<layer>.<q|v>.<A|B>`` → tensor, of a VLLM with LoRA attached."""
    return {
        f"{name}.{letter}": getattr(projection, f"lora_{letter}")["default"].weight
        for name, projection in vllm.attention_projections()
        for letter in "AB"
    }


def checkpoint(vllm: VLLM) -> dict[str, Tensor]:
    """All that FlexEdit trains of it, under the checkpoint's names."""
    tensors = {f"lora.{name}": weight for name, weight in weights(vllm).items()}
    return tensors | {f"tokens.{name}": rows for name, rows in vllm.token_rows().items()}


@torch.no_grad()
def load(vllm: VLLM, tensors: dict[str, Tensor], rows: dict[str, Tensor]) -> None:
    """Takes up LoRA weights and token rows that an earlier run trained."""
    for name, weight in weights(vllm).items():
        weight.copy_(tensors[name])
    layers = {"embed": vllm.model.get_input_embeddings()}
    if not vllm.tied:
        layers["lm_head"] = vllm.model.get_output_embeddings()
    for name, layer in layers.items():
        layer.token_adapter.trainable_tokens_delta["default"].copy_(rows[name])
