"""A VLLM whose language model is kept in 8 or 4 bits a weight, by bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ...errors import FlexEditError
from .families import family_of

BITS = (8, 4)
# what stays as it is, by the families' names: the head, whose rows are trained, and all that sees
WHOLE = (
    "lm_head",
    "model.connector",
    "model.multi_modal_projector",
    "model.vision_model",
    "model.vision_tower",
    "model.visual",
)


def settings(bits: int | None, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What transformers' ``from_pretrained`` is told, for weights in ``bits``; computed in
    ``dtype``.

    Raises FlexEditError without bitsandbytes, and for other numbers than BITS.
    """
    if bits is None:
        return {}
    if bits not in BITS:
        raise FlexEditError(f"The VLLM cannot be kept in {bits} bits a weight; choose 8 or 4.")
    if find_spec("bitsandbytes") is None:
        raise FlexEditError(
            f"A VLLM in {bits} bits needs bitsandbytes, which is not installed. Run `pip install "
            "bitsandbytes`, or leave the bits away."
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        llm_int8_skip_modules=list(WHOLE),
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": str(device)}}


def weight_bytes(model: Any, bits: int, dtype: torch.dtype) -> int:
    """What a transformers model, which may have no weights yet, will take: of each quantised row a
    scale (8 bits), or of each 64 weights one (4 bits), comes on top.
    """
    family = family_of(model.config)
    assert family is not None
    language = model.get_submodule(family.language_model)
    linear = [layer for layer in language.modules() if isinstance(layer, nn.Linear)]
    num_scales = sum(
        layer.out_features if bits == 8 else -(-layer.weight.numel() // 64) for layer in linear
    )
    num_quantised = sum(layer.weight.numel() for layer in linear)
    num_whole = sum(parameter.numel() for parameter in model.parameters()) - num_quantised
    packed = num_quantised * bits // 8 + 4 * num_scales
    return packed + num_whole * dtype.itemsize
