"""Diffusers pipelines with random weights, and the folders of CLIP and LLaVA that go with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

from flexedit.training.pretrain.parts import build_clip, build_vae, build_vllm
from flexedit.training.pretrain.shape import NORM_GROUPS
from tests.tiny import TEXTS, TINY


def make_tiny_pipeline(folder: Path, in_channels: int = 4, **unet: Any) -> Path:
    """``folder/pipeline`` as Stable Diffusion's, ``folder/clip`` and ``folder/vllm``"""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": in_channels,
        "out_channels": 4,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "norm_num_groups": NORM_GROUPS,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TINY.clip_width,
        "attention_head_dim": 2,
    }
    pipeline = folder / "pipeline"
    UNet2DConditionModel(**settings | unet).save_pretrained(pipeline / "unet")
    build_vae(TINY, pipeline / "vae")
    DDPMScheduler(
        beta_start=0.001, beta_end=0.02, beta_schedule="linear", prediction_type="v_prediction"
    ).save_pretrained(pipeline / "scheduler")
    build_clip(TINY, TEXTS, folder / "clip")
    CLIPTextModel.from_pretrained(folder / "clip").save_pretrained(pipeline / "text_encoder")
    (pipeline / "tokenizer").mkdir()
    for file in (folder / "clip").glob("tokenizer*.json"):
        shutil.copy(file, pipeline / "tokenizer")
    build_vllm(TINY, TEXTS, folder / "vllm")
    return pipeline
