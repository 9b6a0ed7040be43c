"""A whole FlexEdit model folder with random weights, small enough for every test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flexedit import prompts
from flexedit.errors import FlexEditError
from flexedit.model_folder import (
    ModelFolder,
    build_adapter,
    build_bridge,
    build_interaction,
    save_model_folder,
)
from flexedit.models.diffusion.unet import FlexEditUNet
from flexedit.training.pretrain.parts import build_parts
from flexedit.training.pretrain.shape import Shape, system_config
from flexedit.training.recipe import mini_recipe

TINY = replace(
    mini_recipe().shape,
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
# What stands in the slots of InstructPix2Pix
TEXT_BRIDGE = {"type": "clip_text"}
INSTRUCT_PIX2PIX = {"vllm": None, "bridge": TEXT_BRIDGE, "adapter": None}
TEXTS = [
    prompts.GENERIC_REPLY,
    prompts.prompt("remove this", with_subject=True),
    prompts.naming_reply("turtle"),
    prompts.SEGMENT_INSTRUCTION,
    prompts.ASK_INSTRUCTION,
]


def made(build: Callable[[Path], None], folder: Path) -> Path:
    """The folder that a function fills, with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build(folder)
    return folder


def make_tiny_folder(path: Path, seed: int = 0, shape: Shape = TINY, **changes: object) -> Path:
    """Every trained tensor is random, also those that start at zero, so that each can be felt.

    changes: sections of the config that differ, or parts of them.
    """
    build_parts(shape, TEXTS, path, seed)
    vae = path / "vae" / "config.json"
    vae.write_text(vae.read_text().replace('"scaling_factor": 1.0', '"scaling_factor": 0.7'))
    config = system_config(shape, "flexedit-tiny").override(changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = random_tensors(ModelFolder(path, config))
        save_model_folder(path, config, tensors, torch.float32)
    return path


def make_tiny_system(name: str, path: Path) -> ModelFolder:
    """Any system of ours in the sizes of the tiny parts, with random weights."""
    build_parts(TINY, TEXTS, path)
    config = system_config(TINY, f"tiny-{name}", name).override({"sampling": {"num_steps": 3}})
    if not config.looks:
        (path / "clip").rename(path / "text_encoder")
        parts = {*config.frozen_parts, "text_encoder"}
        config = config.override({"sources": {part: {"folder": part} for part in parts}})
    torch.manual_seed(0)
    save_model_folder(path, config, random_tensors(ModelFolder(path, config)), torch.float32)
    return ModelFolder(path)


# A UNet of SDXL's kind, and the second text encoder that it reads
SECOND_WIDTH, POOLED = 16, 24
XL_UNET = {
    "cross_attention_dim": TINY.clip_width + SECOND_WIDTH,
    "block_out_channels": [32, 64, 96],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 2, 3],
    "attention_head_dim": [1, 2, 3],
    "use_linear_projection": True,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": POOLED + 6 * 256,
}


def build_second_text(clip: Path, folder: Path, tokenizer_folder: Path) -> None:
    """With the first one's tokenizer."""
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer = AutoTokenizer.from_pretrained(clip)
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=TINY.vocabulary,
        hidden_size=SECOND_WIDTH,
        intermediate_size=2 * SECOND_WIDTH,
        projection_dim=POOLED,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TINY.text_length,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    tokenizer.save_pretrained(tokenizer_folder)


def make_tiny_xl(path: Path) -> ModelFolder:
    """FlexEdit with a UNet of SDXL's kind: two text encoders, pooled text and sizes besides."""
    build_parts(TINY, TEXTS, path)
    build_second_text(path / "clip", *[path / "text_encoder_2"] * 2)
    config = system_config(TINY, "flexedit-tiny-xl")
    width = XL_UNET["cross_attention_dim"]
    parts = ("vllm", "clip", "text_encoder_2", "vae")
    config = config.override(
        {
            "bridge": {"width": width},
            "adapter": {"width": width},
            "unet": config.unet | XL_UNET,
            "sources": {part: {"folder": part} for part in parts},
            "sampling": {"num_steps": 3},
        }
    )
    save_model_folder(path, config, random_tensors(ModelFolder(path, config)), torch.float32)
    return ModelFolder(path)


def random_tensors(folder: ModelFolder) -> dict[str, torch.Tensor]:
    """By the checkpoint's names, for all parts of the folder's system."""
    config = folder.config
    unet = FlexEditUNet(config.unet)
    adapter, bridge = build_adapter(config, unet.layers), build_bridge(folder)
    parts = (unet, adapter, bridge, build_interaction(config))
    tensors = {k: v for part in parts if part is not None for k, v in part.checkpoint().items()}
    if config.vllm is not None:
        width, lora = config.bridge.hidden_width, config.vllm.lora
        for layer in range(TINY.llm_layers) if lora else ():
            rank = lora.rank
            for projection in "qv":
                tensors[f"lora.{layer}.{projection}.A"] = torch.randn(rank, width) * 0.1
                tensors[f"lora.{layer}.{projection}.B"] = torch.randn(width, rank) * 0.1
        tensors["tokens.embed"] = torch.randn(config.vllm.num_edit_tokens, width) * 0.02
    for key, tensor in tensors.items():
        if not tensor.any() or key.startswith(("mea.", "bim.", "iaa.")):
            tensors[key] = torch.randn_like(tensor) * 0.2
    return tensors


def embedded() -> Path:
    """The folder of flexedit-mini; a test that asks for it is skipped in a copy without weights."""
    try:
        return ModelFolder.embedded().path
    except FlexEditError as error:
        pytest.skip(str(error))
