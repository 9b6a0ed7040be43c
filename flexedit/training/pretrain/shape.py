"""Sizes of a small system, and the configs that follow from them."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ...models.config import SystemConfig
from ...systems import preset
from ...validation import STRICT

NORM_GROUPS = 8  # with 32 groups of 32 channels each picture would lose its colours


@dataclass(frozen=True, config=STRICT)
class Shape:
    """Widths are shared where the parts must meet: see recipes/mini.yaml."""

    size: int
    patch: int
    vocabulary: int
    llm_width: int
    llm_layers: int
    vit_width: int
    vit_layers: int
    clip_width: int
    clip_layers: int
    text_length: int
    num_heads: int
    qformer_layers: int
    vae_channels: tuple[int, ...]
    latent_channels: int
    unet_channels: tuple[int, ...]
    unet_cross: tuple[bool, ...]
    unet_layers: int
    beta_end: float = 0.012  # of the noise: latents of more channels need more to be hidden by it


def system_config(
    shape: Shape, name: str = "flexedit-mini", system: str = "flexedit"
) -> SystemConfig:
    """FlexEdit, or another system, in small sizes."""
    kinds = ["CrossAttn{}Block2D" if cross else "{}Block2D" for cross in shape.unet_cross]
    settings = {
        "name": name,
        "diffusion": {"prediction_type": "sample", "beta_end": shape.beta_end},
        "unet": {
            "sample_size": shape.size // 4,
            "in_channels": 2 * shape.latent_channels,  # the noisy latent and the scene's
            "out_channels": shape.latent_channels,
            "block_out_channels": list(shape.unet_channels),
            "layers_per_block": shape.unet_layers,
            "norm_num_groups": NORM_GROUPS,
            "down_block_types": [kind.format("Down") for kind in kinds],
            "up_block_types": [kind.format("Up") for kind in reversed(kinds)],
            "cross_attention_dim": shape.clip_width,
            "attention_head_dim": shape.num_heads,  # diffusers' name for the number of heads
        },
        "sources": {part: {"folder": part} for part in ("vllm", "clip", "vae")},
        "sampling": {"num_steps": 20, "edit_cfg": 3.0, "scene_cfg": 1.5, "size": shape.size},
    }
    sizes = {
        "num_embeddings": shape.text_length,
        "width": shape.clip_width,
        "clip_width": shape.clip_width,
        "vision_width": shape.clip_width,
        "hidden_width": shape.llm_width,
        "inner_width": shape.clip_width,
        "intermediate_width": 2 * shape.clip_width,
        "channels": shape.unet_channels[0],
        "num_layers": shape.qformer_layers,
        "num_heads": shape.num_heads,
        "dropout": 0.0,
    }
    return preset(system, settings, sizes)
