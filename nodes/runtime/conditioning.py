"""The library's guidance branches as ComfyUI's conditionings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.clip_vision
import comfy.sd
import torch
from torch import Tensor, nn

from ...flexedit import masks
from ...flexedit.errors import FlexEditError
from ...flexedit.model_folder import ModelFolder
from ...flexedit.models.config import SystemConfig
from ...flexedit.models.diffusion.conditioning import Branches, Conditioning
from ...flexedit.models.parts import PictureTokens
from ...flexedit.systems import system
from ...flexedit.systems.system import Embeds
from . import clip_vision as clip
from . import vae as autoencoder
from .parts import ManagedPart, on_cpu
from .subject import Subject, model_conds

# What SDXL is told of a picture, in the order of its time_ids
SIZES = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
Packed = list[list[Any]]  # ComfyUI's CONDITIONING: [[context, {…}]]


class Conditioner(nn.Module):
    """Interaction and adapter of a model folder, None where its system has none."""

    def __init__(self, folder: ModelFolder, dtype: torch.dtype) -> None:
        super().__init__()
        self.interaction = folder.load_interaction(dtype)
        self.adapter = folder.load_adapter(dtype)


@dataclass(frozen=True)
class Parts:
    """What the road asks for, of ComfyUI's CLIP and VAE; all of it goes where the adapter is."""

    mea: ManagedPart
    clip_vision: comfy.clip_vision.ClipVisionModel
    vae: comfy.sd.VAE

    @property
    def config(self) -> SystemConfig:
        return self.mea.config

    @property
    def interaction(self) -> Any:
        return self.mea.use().interaction

    @property
    def adapter(self) -> Any:
        return self.mea.use().adapter

    def see(self, picture: Tensor) -> PictureTokens:
        adapter, interaction = self.config.adapter, self.config.interaction
        seen = clip.tokens(
            self.clip_vision,
            picture,
            self.config.fit,
            adapter and adapter.clip_width,
            interaction and interaction.vision_width,
        )
        projected, raw = (
            tokens.to(self.mea.device, self.mea.dtype) for tokens in (seen.projected, seen.raw)
        )
        return replace(seen, projected=projected, raw=raw)

    def encode(self, picture: Tensor) -> Tensor:
        """Padded to the VAE's ratio."""
        makes, wanted = self.vae.latent_channels, self.config.latent_channels
        if makes != wanted:
            raise FlexEditError(
                f"This VAE's latents have {makes} channels, but the model works on {wanted}. "
                "Connect the vae output of the same FlexEdit Loader."
            )
        padded = masks.pad_to_multiple(picture, autoencoder.ratio(self.vae))
        return autoencoder.encode(self.vae, padded).to(self.mea.device)


def condition(
    mea: ManagedPart,
    embeds: Embeds,
    clip_vision: comfy.clip_vision.ClipVisionModel,
    vae: comfy.sd.VAE,
    subject_strength: float,
) -> tuple[Packed, Packed, Packed, dict[str, Tensor]]:
    """→ positive, scene-only and negative, and the clean scene's latent, all on the CPU."""
    bridge, found = mea.config.bridge, embeds.text.e.shape
    if found[1:] != (bridge.num_embeddings, bridge.width):
        raise FlexEditError(
            f"These edit embeddings are {found[1]} of width {found[2]}, but this MEA reads "
            f"{bridge.num_embeddings} of width {bridge.width}. Connect qformer and mea of the same "
            "FlexEdit Loader."
        )
    parts, request = Parts(mea, clip_vision, vae), embeds.intent.request
    text, null = (
        replace(text, e=text.e.to(mea.device, mea.dtype)) for text in (embeds.text, embeds.null)
    )
    embeds = replace(embeds, text=text, null=null)
    is_marked = mea.config.vae_input == "marked" and request.mask is not None
    clean = on_cpu(parts.encode(request.scene)) if is_marked else None
    branches = on_cpu(system.condition(parts, embeds, subject_strength))
    return *pack(branches), {"samples": branches.positive.scene_latent if clean is None else clean}


def pack(branches: Branches) -> tuple[Packed, Packed, Packed]:
    """→ positive, scene-only, negative; the negative one has no scene."""
    f2 = branches.positive.f2
    subject = None if f2 is None else Subject(f2)

    def one(branch: Conditioning, with_scene: bool = True) -> Packed:
        extras: dict[str, Any] = {}
        if with_scene:
            extras["concat_latent_image"] = branch.scene_latent
        extras["model_conds"] = model_conds(subject, branch.strength, branch.residual)
        if branch.pooled is not None:
            extras["pooled_output"] = branch.pooled.float()
            extras |= zip(SIZES, branch.time_ids[0].tolist(), strict=True)
        return [[branch.f1.float(), extras]]

    return (
        one(branches.positive),
        one(branches.scene_only),
        one(branches.negative, with_scene=False),
    )
