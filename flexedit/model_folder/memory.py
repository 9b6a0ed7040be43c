"""What a model's parts weigh, computed on the meta device: configs are read, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import packages
from ..models.clip import TextEncoder
from ..models.config import SystemConfig
from ..models.diffusion.unet import FlexEditUNet
from ..models.vllm import quantised
from .folder import (
    CONFIGS,
    SECOND_TEXT,
    ModelFolder,
    build_adapter,
    build_bridge,
    build_interaction,
)
from .reading import by_library

FULL_PRECISION = ("vae",)  # as the pipeline loads it: many overflow in half


def memory_by_part(
    folder: ModelFolder, dtype: torch.dtype = torch.float16, vllm_bits: int | None = None
) -> dict[str, int]:
    """Bytes of each part's weights, in the order in which an edit meets the parts; a part that the
    system lacks, or never uses, is left out. Activations come on top, and the rows of new edit
    tokens.

    dtype: what the parts are loaded as · vllm_bits: 8 or 4, what the VLLM's language model is.
    Raises FlexEditError for a part whose config cannot be read.
    """
    return sizes_of(empty_parts(folder), dtype, vllm_bits)


def sizes_of(
    parts: Mapping[str, nn.Module], dtype: torch.dtype, vllm_bits: int | None = None
) -> dict[str, int]:
    sizes = {
        name: sum(
            tensor.numel() * (4 if name in FULL_PRECISION else dtype.itemsize)
            for tensor in part.parameters()
        )
        for name, part in parts.items()
    }
    if vllm_bits is not None and "vllm" in parts:
        sizes["vllm"] = quantised.weight_bytes(parts["vllm"], vllm_bits, dtype)
    return sizes


@packages.needed("transformers", "diffusers")
def empty_parts(folder: ModelFolder) -> dict[str, nn.Module]:
    """The parts of an edit, by name, without weights."""
    from diffusers import AutoencoderKL
    from transformers import AutoModelForImageTextToText, CLIPVisionModelWithProjection

    config, parts = folder.config, {}
    with torch.device("meta"):
        if config.vllm is not None:
            parts["vllm"] = empty_pretrained(AutoModelForImageTextToText, _part(folder, "vllm"))
        parts["bridge"] = build_bridge(folder, partial(empty_text, folder))
        if config.looks:
            parts["clip"] = empty_pretrained(CLIPVisionModelWithProjection, _part(folder, "clip"))
        parts["interaction"] = build_interaction(config)
        parts |= _unet_and_adapter(config)
        vae = _part(folder, "vae")
        settings = by_library(vae, AutoencoderKL.load_config, vae)
        parts["vae"] = by_library(vae, AutoencoderKL.from_config, settings)
    return {name: part for name, part in parts.items() if part is not None}


def _unet_and_adapter(config: SystemConfig) -> dict[str, Any]:
    unet = FlexEditUNet(config.unet)
    return {"adapter": build_adapter(config, unet.layers), "unet": unet}


def empty_text(folder: ModelFolder, part: str) -> TextEncoder:
    from transformers import CLIPTextModelWithProjection

    text = empty_pretrained(CLIPTextModelWithProjection, _part(folder, part))
    projection = text.text_projection if part == SECOND_TEXT else None
    return TextEncoder(text.text_model, None, projection)


def empty_pretrained(kind: Any, folder: Path) -> Any:
    """The model of transformers' class ``kind`` that a folder's config describes."""
    from transformers import AutoConfig

    own = getattr(kind, "config_class", None)  # an Auto class has none of its own
    config = by_library(folder, (own or AutoConfig).from_pretrained, folder, local_files_only=True)
    build = kind if own else kind.from_config
    return by_library(folder, build, config)


def _part(folder: ModelFolder, name: str) -> Path:
    return folder.part(name, CONFIGS)
