"""A model of any system to train, from what others trained: a diffusion pipeline, a CLIP, a VLLM.

New in it is what they do not have: edit tokens, LoRA, bridge, interaction and adapter. Where the
UNet has no input for the scene's latent, it gets one that starts at zero, as InstructPix2Pix's did.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FlexEditError
from ..model_folder import (
    ModelFolder,
    build_adapter,
    build_bridge,
    build_interaction,
    by_library,
    copy_part,
    load_diffusers,
    load_vllm,
    save_model_folder,
    vllm_family,
)
from ..model_folder.weights import read_config, unreadable
from ..models.bridges.bridge import Bridge
from ..models.config import SystemConfig
from ..models.diffusion.sampling import DiffusionConfig
from ..models.diffusion.unet import FlexEditUNet
from ..models.vllm import lora
from ..systems import preset
from ..validation import validated

PUBLISHED_WIDTH = 768  # of the context, for which systems name their numbers of heads
HEAD_WIDTH = 64  # with other widths


def planned(
    pipeline: Path,
    clip: Path,
    vllm: Path | None,
    name: str,
    size: int,
    system: str,
    image_encoder: Path | None = None,
) -> tuple[SystemConfig, dict[str, Path]]:
    """The config of what `assemble` makes, by the parts' configs alone, and where its frozen parts
    are from.

    pipeline: a diffusers folder of Stable Diffusion 1, SDXL or InstructPix2Pix · clip: both towers
    of the CLIP whose text encoder its UNet reads (SDXL's: the first) · vllm: of one of our families
    · size: of the pictures it is trained with, in pixels a side · image_encoder: another CLIP's
    tower, which sees scene and subject in place of that of ``clip``.
    Raises FlexEditError for parts that cannot be read or do not go together.
    """
    from transformers import CLIPTextConfig, CLIPVisionConfig

    inside = [pipeline / name for name in ("unet", "scheduler", "text_encoder", "vae")]
    for folder in (*inside, clip, *(one for one in (vllm, image_encoder) if one is not None)):
        if not any(folder.glob("*config.json")):
            raise FlexEditError(f"{folder} is not a model folder: it has no config. Download it.")
    unet = unet_config(pipeline / "unet")
    text = by_library(clip, CLIPTextConfig.from_pretrained, clip, local_files_only=True)
    sees = image_encoder or clip
    vision = by_library(sees, CLIPVisionConfig.from_pretrained, sees, local_files_only=True)
    width, second = text.hidden_size, pipeline / "text_encoder_2"
    if unet["addition_embed_type"]:
        width += read_config(second).get("hidden_size", 0)
    require_its_clip(text, pipeline / "text_encoder")
    sizes = {
        "num_embeddings": text.max_position_embeddings,
        "width": width,
        "clip_width": vision.projection_dim,
        "vision_width": vision.hidden_size,
        "channels": unet["block_out_channels"][0],
    }
    if width != PUBLISHED_WIDTH:
        sizes |= {"intermediate_width": 4 * width, "num_heads": max(1, width // HEAD_WIDTH)}
    if vllm is not None:
        sizes["hidden_width"] = hidden_width(vllm)
    settings = {
        "name": name,
        "diffusion": diffusion_config(pipeline / "scheduler" / "scheduler_config.json"),
        "unet": unet | {"in_channels": 2 * unet["out_channels"]},
        "sources": {},
        "sampling": {"size": size},
    }
    config = preset(system, settings, sizes)
    if config.vllm is not None:
        if vllm is None:
            raise FlexEditError(f"{system} needs a VLLM: name its folder by --vllm.")
        family = dataclasses.replace(config.vllm, type=vllm_family(vllm))
        config = dataclasses.replace(config, vllm=family)
    elif vllm is not None:
        raise FlexEditError(f"{system} has no VLLM. Remove --vllm.")
    if image_encoder is not None and not config.looks:
        raise FlexEditError(f"{system} sees nothing through CLIP. Remove --image-encoder.")
    given = {
        "vllm": vllm,
        "clip": image_encoder or clip,
        "text_encoder": clip,
        "text_encoder_2": second,
        "vae": pipeline / "vae",
    }
    # what teaches a bridge is CLIP's text encoder, also where nothing looks through that CLIP
    has_its_text = config.looks and image_encoder is None
    needed = {*config.frozen_parts, "clip" if has_its_text else "text_encoder"}
    sources = {part: folder for part, folder in given.items() if folder and part in needed}
    config = config.override({"sources": {part: {"folder": part} for part in sources}})
    levels = read_config(pipeline / "vae").get("block_out_channels")
    if not isinstance(levels, list):
        raise unreadable(pipeline / "vae", "config.json names no block_out_channels")
    if size % 2 ** (len(levels) - 1):
        raise FlexEditError(f"The size is {size}; choose a multiple of {2 ** (len(levels) - 1)}.")
    return config, sources


def assemble(
    pipeline: Path,
    clip: Path,
    vllm: Path | None,
    out: Path,
    size: int = 256,
    seed: int = 0,
    system: str = "flexedit",
    image_encoder: Path | None = None,
) -> ModelFolder:
    """Writes the model folder ``out`` of a system, with copies of the parts (as `planned`).

    Raises FlexEditError for what `planned` does, and if ``out`` exists.
    """
    if out.exists():
        raise FlexEditError(f"{out} is there already. Choose another folder, or delete it.")
    config, sources = planned(pipeline, clip, vllm, out.name, size, system, image_encoder)
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for part, folder in sources.items():
            copy_part(folder, unfinished / part)
        if config.pools:
            copy_part(pipeline / "tokenizer_2", unfinished / "text_encoder_2")
        torch.manual_seed(seed)
        model = ModelFolder(unfinished, config)
        model.load_vae()  # does it go with the UNet?
        tensors = untrained(model, pipeline / "unet")
        save_model_folder(unfinished, config, tensors)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return ModelFolder(out)


@torch.no_grad()
def untrained(folder: ModelFolder, unet: Path) -> dict[str, Tensor]:
    """By the checkpoint's names: a pipeline's UNet, and the other parts as they start beside it.

    Parts come and go one by one, the largest as it lies on disk: the VLLM is not read in float32.
    """
    config, tensors = folder.config, untrained_tokens(folder)
    ours = FlexEditUNet(config.unet)
    ours.unet.load_state_dict(with_scene(load_unet(unet)))
    bridge, adapter = build_bridge(folder), build_adapter(config, ours.layers)
    if isinstance(bridge, Bridge):
        bridge.null_edit.copy_(folder.load_text()([""])[0])
    if adapter is not None:
        adapter.start_from(ours.unet)
    for part in (ours, bridge, build_interaction(config), adapter):
        tensors |= {} if part is None else part.checkpoint()
    return tensors


def untrained_tokens(folder: ModelFolder) -> dict[str, Tensor]:
    """What is new in the VLLM, if there is one: edit tokens and LoRA."""
    config = folder.config.vllm
    if config is None:
        return {}
    part = folder.part("vllm")
    says = read_config(part)
    stored = getattr(torch, str(says.get("dtype") or says.get("torch_dtype")), torch.float32)
    vllm = load_vllm(part, config, stored)
    lora.attach(vllm, config.lora)
    return {name: tensor.float().clone() for name, tensor in lora.checkpoint(vllm).items()}


def load_unet(folder: Path) -> Any:
    from diffusers import UNet2DConditionModel

    return load_diffusers(UNet2DConditionModel, folder)


def unet_config(folder: Path) -> dict[str, Any]:
    """All settings of a pipeline's UNet, also those that its folder leaves to diffusers.

    Raises FlexEditError for one that FlexEdit cannot drive: an inpainting model's, …
    """
    from diffusers import UNet2DConditionModel

    says = by_library(folder, UNet2DConditionModel.load_config, folder)
    with torch.device("meta"):
        unet = by_library(folder, UNet2DConditionModel.from_config, says)
    config = {name: value for name, value in unet.config.items() if name[0] != "_"}
    labels = config["num_class_embeds"] and "the number of a class"
    others = config["class_embed_type"] or labels or config["encoder_hid_dim_type"]
    if config["addition_embed_type"] != "text_time":  # SDXL's
        others = others or config["addition_embed_type"]
    reads, makes = config["in_channels"], config["out_channels"]
    if others or reads not in (makes, 2 * makes):
        raise FlexEditError(
            f"{folder} has {reads} channels in and {makes} out"
            f"{f', and reads {others} besides' if others else ''}. FlexEdit drives UNets as "
            "Stable Diffusion 1's and XL's (as many in as out) and InstructPix2Pix's (twice as "
            "many in)."
        )
    return config


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

    vllm_family(vllm)  # before others complain of what it lacks
    config = by_library(vllm, AutoConfig.from_pretrained, vllm, local_files_only=True)
    return config.get_text_config().hidden_size


def diffusion_config(file: Path) -> dict[str, Any]:
    """What a pipeline's scheduler says of the noise it was trained with.

    Raises FlexEditError for a schedule that FlexEdit does not know.
    """
    says = read_config(file.parent, file.name)
    own = ("trained_betas", "rescale_betas_zero_snr", "sigma_data")  # the last: EDM's, of CosXL
    if any(says.get(name) for name in own):
        raise FlexEditError(
            f"{file} has a noise schedule of its own, which FlexEdit cannot follow."
        )
    names = ("prediction_type", "beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
    settings = {"prediction_type": "epsilon"} | {name: says[name] for name in names if name in says}
    return dataclasses.asdict(validated(DiffusionConfig, settings, str(file)))
