"""The library's guidance branches as ComfyUI's conditionings."""

from __future__ import annotations

from typing import Any

import comfy.clip_vision
import comfy.sd
from torch import Tensor

from ...flexedit import masks
from ...flexedit.config import SystemConfig
from ...flexedit.errors import FlexEditError
from ...flexedit.models.mea import Branches, Conditioning
from ...flexedit.pipeline import Embeds, row_strength
from . import clip_vision as clip
from . import vae as autoencoder
from .parts import ManagedPart, on_cpu
from .subject import Subject, model_conds

Packed = list[list[Any]]  # ComfyUI's CONDITIONING: [[context, {…}]]


def condition(
    mea: ManagedPart,
    embeds: Embeds,
    clip_vision: comfy.clip_vision.ClipVisionModel,
    vae: comfy.sd.VAE,
    subject_strength: float,
) -> tuple[Packed, Packed, Packed, dict[str, Tensor]]:
    """→ positive, scene-only and negative, and the clean scene's latent, all on the CPU."""
    request, config = embeds.request, mea.config
    wanted = (config.context_length, config.mea.width)
    if embeds.e.shape[1:] != wanted:
        raise FlexEditError(
            f"These edit embeddings are {embeds.e.shape[1]} of width {embeds.e.shape[2]}, but this "
            f"MEA reads {wanted[0]} of width {wanted[1]}. Connect qformer and mea of the same "
            "FlexEdit Loader."
        )
    clean = seen = scene_latent(vae, request.scene, config)
    if config.vae_input == "marked" and request.mask is not None:
        seen = scene_latent(vae, embeds.marked, config)
    scene_tokens = clip.tokens(clip_vision, embeds.marked, config.mea.clip_width)
    subject_tokens = None
    if request.subject is not None and config.mea.subject:
        subject_tokens = clip.tokens(clip_vision, request.subject, config.mea.clip_width)
    branches = mea.use().branches(
        *(
            None if tensor is None else tensor.to(mea.device, mea.dtype)
            for tensor in (embeds.e, scene_tokens, subject_tokens)
        ),
        row_strength(request, subject_strength).to(mea.device),
        seen.to(mea.device),
    )
    return *pack(on_cpu(branches)), {"samples": clean}


def pack(branches: Branches) -> tuple[Packed, Packed, Packed]:
    """→ positive, scene-only, negative; the negative one has no scene."""
    f2 = branches.positive.f2
    subject = None if f2 is None else Subject(f2)

    def one(branch: Conditioning, with_scene: bool = True) -> Packed:
        extras: dict[str, Any] = {}
        if with_scene:
            extras["concat_latent_image"] = branch.scene_latent
        if subject is not None:
            extras["model_conds"] = model_conds(subject, branch.strength)
        return [[branch.f1.float(), extras]]

    return (
        one(branches.positive),
        one(branches.scene_only),
        one(branches.negative, with_scene=False),
    )


def scene_latent(vae: comfy.sd.VAE, picture: Tensor, config: SystemConfig) -> Tensor:
    """picture (B, 3, H, W) → latent (B, C, h, w), unscaled; padded to the VAE's ratio."""
    if vae.latent_channels != config.latent_channels:
        raise FlexEditError(
            f"This VAE's latents have {vae.latent_channels} channels, but the model works on "
            f"{config.latent_channels}. Connect the vae output of the same FlexEdit Loader."
        )
    return autoencoder.encode(vae, masks.pad_to_multiple(picture, autoencoder.ratio(vae)))
