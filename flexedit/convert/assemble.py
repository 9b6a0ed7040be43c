"""A FlexEdit model to train, from what others trained: a diffusion pipeline, a CLIP and a VLLM.

New in it is what they do not have: edit tokens, LoRA, Q-Former and Mask Enhanced Adapter. Where the
UNet has no input for the scene's latent, it gets one that starts at zero, as InstructPix2Pix's did.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import (
    DiffusionConfig,
    LoRAConfig,
    MEAConfig,
    PartSource,
    QFormerConfig,
    SamplingConfig,
    SystemConfig,
    build,
)
from ..errors import FlexEditError
from ..model_folder import (
    ModelFolder,
    by_library,
    copy_part,
    load_diffusers,
    load_image_encoder,
    load_text_encoder,
    save_model_folder,
)
from ..model_folder.weights import read_config, unreadable
from ..training.system import PARTS, Recipe, System

NUM_EDIT_TOKENS = 32
QFORMER_LAYERS = 6
HEAD_WIDTH = 64  # of Q-Former and adapter: 12 heads at a width of 768
NUM_STEPS = 50  # of sampling; the scales stay InstructPix2Pix's


def assemble(
    pipeline: Path, clip: Path, vllm: Path, out: Path, size: int = 256, seed: int = 0
) -> ModelFolder:
    """Writes the model folder ``out``, with copies of the parts.

    pipeline: a diffusers folder of Stable Diffusion 1 or InstructPix2Pix · clip: both towers of the
    CLIP whose text encoder its UNet reads · vllm: a LLaVA · size: of the pictures it is trained
    with, in pixels a side.
    Raises FlexEditError for parts that cannot be read or do not go together, and if ``out`` exists.
    """
    if out.exists():
        raise FlexEditError(f"{out} is there already. Choose another folder, or delete it.")
    sources = {"vllm": vllm, "clip": clip, "vae": pipeline / "vae"}
    others = [pipeline / name for name in ("unet", "scheduler", "text_encoder")]
    for folder in (*others, *sources.values()):
        if not any(folder.glob("*config.json")):
            raise FlexEditError(f"{folder} is not a model folder: it has no config. Download it.")
    unet = load_unet(pipeline / "unet")
    text, image = load_text_encoder(clip), load_image_encoder(clip)
    width = text.text_model.config.hidden_size
    require_its_clip(text.text_model.config, pipeline / "text_encoder")
    config = SystemConfig(
        name=out.name,
        num_edit_tokens=NUM_EDIT_TOKENS,
        bridge="qformer",
        qformer=QFormerConfig(
            num_queries=text.length,
            width=width,
            num_layers=QFORMER_LAYERS,
            num_heads=max(1, width // HEAD_WIDTH),
            intermediate_width=4 * width,
            hidden_width=hidden_width(vllm),
        ),
        mea=MEAConfig(
            width=width,
            clip_width=image.visual_projection.out_features,
            num_heads=max(1, width // HEAD_WIDTH),
        ),
        lora=LoRAConfig(),
        diffusion=diffusion_config(pipeline / "scheduler" / "scheduler_config.json"),
        unet={k: v for k, v in unet.config.items() if k[0] != "_"}
        | {"in_channels": 2 * unet.config.out_channels},
        sources={part: PartSource(folder=part) for part in sources},
        sampling=SamplingConfig(num_steps=NUM_STEPS, size=size),
    )
    levels = read_config(pipeline / "vae").get("block_out_channels")
    if not isinstance(levels, list):
        raise unreadable(pipeline / "vae", "config.json names no block_out_channels")
    if size % 2 ** (len(levels) - 1):
        raise FlexEditError(f"The size is {size}; choose a multiple of {2 ** (len(levels) - 1)}.")
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for part, folder in sources.items():
            copy_part(folder, unfinished / part)
        torch.manual_seed(seed)
        system = System(ModelFolder(unfinished, config), Recipe("joint", PARTS), 0, seed)
        system.unet.unet.load_state_dict(with_scene(unet))
        system.mea.start_from(system.unet.unet)
        save_model_folder(unfinished, config, system.tensors())
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return ModelFolder(out)


def load_unet(folder: Path) -> Any:
    """Raises FlexEditError for one that FlexEdit cannot drive: SDXL's, an inpainting model's, …"""
    from diffusers import UNet2DConditionModel

    unet = load_diffusers(UNet2DConditionModel, folder)
    config = unet.config
    others = config.addition_embed_type or config.class_embed_type or config.encoder_hid_dim_type
    reads, makes = config.in_channels, config.out_channels
    if others or reads not in (makes, 2 * makes):
        raise FlexEditError(
            f"{folder} has {reads} channels in and {makes} out"
            f"{f', and reads {others} besides' if others else ''}. FlexEdit trains UNets as "
            "Stable Diffusion 1's (as many in as out) and InstructPix2Pix's (twice as many in)."
        )
    return unet


def with_scene(unet: Any) -> dict[str, Tensor]:
    """Its weights, with an input for the scene's latent beside that of the noisy one (eq. 4)."""
    weights = unet.state_dict()
    first = weights["conv_in.weight"]
    if first.shape[1] == unet.config.out_channels:
        weights["conv_in.weight"] = torch.cat([first, torch.zeros_like(first)], dim=1)
    return weights


def require_its_clip(text: Any, folder: Path) -> None:
    """Raises FlexEditError if a CLIP's text encoder (its config) is not the pipeline's own."""
    from transformers import CLIPTextConfig

    own = by_library(folder, CLIPTextConfig.from_pretrained, folder)
    for name in ("hidden_size", "num_hidden_layers", "max_position_embeddings"):
        found, wanted = getattr(text, name), getattr(own, name)
        if found != wanted:
            raise FlexEditError(
                f"CLIP's text encoder has {name} {found}, but that in {folder} {wanted}: its UNet "
                "reads other texts. Choose the CLIP that it was taken from. (Stable Diffusion 2 "
                "stops a layer before the last one; FlexEdit cannot.)"
            )


def hidden_width(vllm: Path) -> int:
    from transformers import AutoConfig

    config = by_library(vllm, AutoConfig.from_pretrained, vllm, local_files_only=True)
    if config.model_type != "llava":
        raise FlexEditError(
            f"{vllm} holds a {config.model_type}; FlexEdit trains LLaVA 1.5's class."
        )
    return config.text_config.hidden_size


def diffusion_config(file: Path) -> DiffusionConfig:
    """What a pipeline's scheduler says of the noise it was trained with."""
    says = read_config(file.parent, file.name)
    if says.get("trained_betas") or says.get("rescale_betas_zero_snr"):
        raise FlexEditError(
            f"{file} has a noise schedule of its own, which FlexEdit cannot follow."
        )
    names = ("prediction_type", "beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
    known = {"prediction_type": "epsilon"} | {name: says[name] for name in names if name in says}
    return build(DiffusionConfig, known, str(file))
