"""A model folder of Stable Diffusion 1.5's shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from flexedit.model_folder import build_adapter, build_interaction, save_model_folder
from flexedit.models.diffusion.unet import FlexEditUNet
from flexedit.systems import preset


def make_sd15_folder(path: Path, system: str = "flexedit", **changes: Any) -> Path:
    """A system's UNet, interaction and adapter in full size, CLIP's text as the bridge; random
    weights, and of the frozen parts only what the latents' scale needs.

    changes: sections of the config that differ from the system's
    """
    text = {"type": "clip_text", "num_embeddings": 77, "width": 768}
    settings = {"name": "sd15-shape", "vllm": None, "bridge": text}
    config = preset(system, {**settings, **changes, "sources": {"vae": {"folder": "vae"}}})
    with torch.device("meta"):
        unet = FlexEditUNet(config.unet)
        parts = (unet, build_interaction(config), build_adapter(config, unet.layers))
        shapes = {k: v for part in parts if part is not None for k, v in part.checkpoint().items()}
        shapes["null.edit"] = torch.empty(77, 768)
    torch.manual_seed(0)
    tensors = {
        name: random_weight(tensor.shape, is_weight=name.endswith("weight"))
        for name, tensor in shapes.items()
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
