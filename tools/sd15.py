"""A model folder of Stable Diffusion 1.5's shape."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from flexedit.models.config import DiffusionConfig, MEAConfig, TextBridgeConfig
from flexedit.model_folder import save_model_folder, trained_tensors, unet_layers
from flexedit.models.mea import MEA
from flexedit.models.unet import FlexEditUNet
from flexedit.training.mini import MINI, system_config

SD15 = {  # InstructPix2Pix's UNet
    "sample_size": 64,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


def make_sd15_folder(path: Path) -> Path:
    """Random weights; of the frozen parts only what the latents' scale needs."""
    config = dataclasses.replace(
        system_config(MINI),
        name="sd15-shape",
        num_edit_tokens=0,
        bridge="text",
        text=TextBridgeConfig(width=768, num_tokens=77),
        qformer=None,
        mea=MEAConfig(width=768, clip_width=768, num_heads=8),
        diffusion=DiffusionConfig("epsilon"),
        unet=SD15,
    )
    with torch.device("meta"):
        unet = FlexEditUNet(config.unet)
        mea = MEA(config.mea, config.context_length, unet_layers(config))
    torch.manual_seed(0)
    tensors = {
        name: random_weight(tensor.shape, is_weight=name.endswith("weight"))
        for name, tensor in trained_tensors(unet, mea).items()
    }
    save_model_folder(path, config, tensors, torch.float32)
    (path / "vae").mkdir()
    (path / "vae" / "config.json").write_text(json.dumps({"scaling_factor": 0.18215}))
    return path


def random_weight(shape: torch.Size, is_weight: bool) -> torch.Tensor:
    """Weights that keep a signal's size; norms and biases that can be felt."""
    if len(shape) == 1:
        return torch.randn(shape).mul(0.1).add(is_weight)
    return torch.randn(shape).mul(shape[1:].numel() ** -0.5)
