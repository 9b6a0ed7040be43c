"""A whole FlexEdit model folder with random weights, small enough for every test."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from flexedit import prompts
from flexedit.config import SystemConfig
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder, save_model_folder, trained_tensors, unet_layers
from flexedit.models.mea import MEA
from flexedit.models.qformer import QFormer
from flexedit.models.unet import FlexEditUNet
from flexedit.training.mini import Shape, build_parts

TINY = Shape(
    vocabulary=400,
    llm_width=32,
    llm_layers=2,
    vit_width=32,
    vit_layers=1,
    clip_width=32,
    clip_layers=1,
    num_heads=2,
    qformer_layers=2,
    vae_channels=(32, 32, 32),
    unet_channels=(32, 32),
    unet_cross=(True, False),
)
TEXTS = [
    prompts.GENERIC_REPLY,
    prompts.prompt("remove this", with_subject=True),
    prompts.naming_reply("turtle"),
    prompts.SEGMENT_INSTRUCTION,
    prompts.ASK_INSTRUCTION,
]


def make_tiny_folder(path: Path, seed: int = 0, shape: Shape = TINY, **changes: object) -> Path:
    """Every trained tensor is random, also those that start at zero, so that each can be felt."""
    config = build_parts(shape, TEXTS, path, seed)
    vae = path / "vae" / "config.json"
    vae.write_text(vae.read_text().replace('"scaling_factor": 1.0', '"scaling_factor": 0.7'))
    config = dataclasses.replace(config, name="flexedit-tiny", **changes)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_model_folder(path, config, random_tensors(config), torch.float32)
    return path


def random_tensors(config: SystemConfig) -> dict[str, torch.Tensor]:
    unet = FlexEditUNet(config.unet)
    mea = MEA(config.mea, config.context_length, unet_layers(config))
    qformer = QFormer(config.qformer) if config.qformer else None
    lora, tokens = {}, {}
    if config.has_vllm:
        width, rank = config.qformer.hidden_width, config.lora.rank
        for layer in range(TINY.llm_layers):
            for projection in "qv":
                lora[f"{layer}.{projection}.A"] = torch.randn(rank, width) * 0.1
                lora[f"{layer}.{projection}.B"] = torch.randn(width, rank) * 0.1
        tokens["embed"] = torch.randn(config.num_edit_tokens, width) * 0.02
    tensors = trained_tensors(unet, mea, qformer, tokens, lora)
    for key, tensor in tensors.items():
        if not tensor.any() or key.startswith("mea."):
            tensors[key] = torch.randn_like(tensor) * 0.2
    return tensors


def embedded() -> Path:
    """The folder of flexedit-mini; a test that asks for it is skipped in a copy without weights."""
    try:
        return ModelFolder.embedded().path
    except FlexEditError as error:
        pytest.skip(str(error))
