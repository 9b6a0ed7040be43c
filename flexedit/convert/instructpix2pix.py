"""InstructPix2Pix, and what was trained on from it (MagicBrush): a diffusers folder, also of SDXL's
kind with two text encoders, or one file in the names of latent diffusion → a model folder.

Of a file with averaged weights (``model_ema``) those are taken, by which its makers edit.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FlexEditError
from ..model_folder import (
    CONFIG_FILE,
    ModelFolder,
    by_library,
    check_shapes,
)
from ..model_folder.folder import SECOND_TEXT
from ..model_folder.keys import under
from ..model_folder.weights import portable_name, read_config
from ..models.config import SystemConfig
from ..models.diffusion.unet import FlexEditUNet
from ..systems import preset
from .assemble import diffusion_config, unet_config
from .sources import Source, Weights, require
from .writing import Planned, here, unfinished, write_part, write_trained

LICENCES = {
    "InstructPix2Pix": "MIT; its weights were trained on from Stable Diffusion 1.5's and so come "
    "under the CreativeML Open RAIL-M licence, too.",
}
XL_LICENCES = {
    "InstructPix2Pix": "its weights were trained on from Stable Diffusion XL's and so come under "
    "the CreativeML Open RAIL++-M licence.",
}
# What those say who trained the published one: the hub's diffusers/sdxl-instructpix2pix-768
XL_SAMPLING = {"num_steps": 30, "edit_cfg": 3.0, "scene_cfg": 1.5, "size": 768}
# What a file also holds: the schedule of the noise, which the config names, and counters.
SCHEDULE = r"(alphas|betas|log|posterior|sqrt)\w*|logvar|scale_factor"
COUNTERS = r"model_ema\.(decay|num_updates)"
CHANNELS = 8
OTHERS = {4: "draws pictures from words alone", 9: "fills holes (inpainting)"}
TEXT = "cond_stage_model.transformer"
XL_TEXT = "conditioner."  # how SDXL's files call both of their text encoders
# a VAE's attention, as diffusers named it before 0.18
NOW = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
PROJECTION = "text_projection.weight"
FORMER = re.compile(rf"(?<=attentions\.0\.)({'|'.join(NOW)})(?=\.)")
TOKENIZER = ("tokenizer.json", "vocab.json")
TOKENIZER_FILES = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", *TOKENIZER)


@dataclass(frozen=True)
class Shape:
    """What a file does not say of itself: the configs of its VAE and its text encoder, and where
    its UNet differs from the preset's.
    """

    vae: Mapping[str, Any]
    text: Mapping[str, Any]
    unet: Mapping[str, Any]


PUBLISHED = Shape(
    vae={
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    },
    text={  # of CLIP ViT-L/14
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "projection_dim": 768,
    },
    unet={},
)


@dataclass(frozen=True)
class Part:
    """A part's config and its tensors, in the names of diffusers or transformers."""

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    where: Path


def convert_instructpix2pix(
    checkpoint: Path,
    out: Path,
    vae: Path | None = None,
    text_encoder: Path | None = None,
    shape: Shape = PUBLISHED,
) -> ModelFolder:
    """Writes the model folder ``out``, which needs none of the sources any more.

    checkpoint: a diffusers folder, a .ckpt or a .safetensors file · vae: the folder of another VAE
    than the checkpoint's · text_encoder: a folder with CLIP's tokenizer, which files lack, and with
    its weights for those without them.
    Raises FlexEditError for what cannot be read, is no such model, or if ``out`` exists.
    """
    sources = [
        Source(
            "--checkpoint",
            checkpoint,
            "InstructPix2Pix's file or folder",
            "the hub's timbrooks/instruct-pix2pix, osunlp/InstructPix2Pix-MagicBrush or "
            "diffusers/sdxl-instructpix2pix-768",
        )
    ]
    if vae is not None:
        where = "the hub's stabilityai/sd-vae-ft-mse"
        sources.append(Source("--vae", vae, "a VAE's folder", where))
    if text_encoder is not None or not checkpoint.is_dir():
        sources.append(
            Source(
                "--text-encoder",
                text_encoder,
                "a folder with CLIP's vocab.json and merges.txt, which such a file lacks",
                "the hub's openai/clip-vit-large-patch14, or comfy/sd1_tokenizer of a ComfyUI",
            )
        )
    require(*sources)
    with unfinished(out, sources) as folder:
        parts = parts_of_folder if checkpoint.is_dir() else parts_of_file
        unet, texts, own_vae = parts(checkpoint, shape, text_encoder, vae)
        config = system_config(out.name, unet, texts, checkpoint)
        for name, text in texts.items():
            write_text_encoder(text, tokenizer_of(checkpoint, text_encoder, name), folder / name)
        write_vae(own_vae, folder / "vae")
        (folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        model = ModelFolder(folder, config)
        model.load_vae()  # does it go with the UNet?
        write_unet(unet, model)
    return ModelFolder(out)


# --- what there is ---


def parts_of_folder(
    checkpoint: Path, _: Shape, text_encoder: Path | None, vae: Path | None
) -> tuple[Part, dict[str, Part], Part]:
    """UNet, text encoders and VAE of a diffusers folder."""
    weights = Weights.read(checkpoint / "unet")
    require_eight_channels(weights, "conv_in.weight")
    config = unet_config(checkpoint / "unet")
    names = ("text_encoder", SECOND_TEXT) if config["addition_embed_type"] else ("text_encoder",)
    return (
        Part(config, everything(weights), checkpoint / "unet"),
        {name: text_part(part_of(checkpoint / name), name == SECOND_TEXT) for name in names},
        part_of(vae or checkpoint / "vae"),
    )


def part_of(folder: Path) -> Part:
    return Part(read_config(folder), everything(Weights.read(folder)), folder)


def everything(weights: Weights) -> dict[str, Tensor]:
    return {name: weights.take(name) for name in weights}


def parts_of_file(
    checkpoint: Path, shape: Shape, text_encoder: Path | None, vae: Path | None
) -> tuple[Part, dict[str, Part], Part]:
    """UNet, text encoder and VAE of a file in the names of latent diffusion."""
    from diffusers.loaders import single_file_utils as by_diffusers

    weights = Weights.read(checkpoint, within="state_dict")
    require_eight_channels(weights, "model.diffusion_model.input_blocks.0.0.weight")
    if any(name.startswith(XL_TEXT) for name in weights):
        raise FlexEditError(
            f"{checkpoint} is of SDXL's kind, of which folders alone are converted: name the one "
            "that it was made of, with unet, vae and both text encoders."
        )
    config = preset("instructpix2pix", {"name": "file", "sources": {}}).unet | dict(shape.unet)

    def part(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Part:
        return Part(dict(config), tensors, checkpoint)

    def converted(
        convert: Callable[..., Any], config: Mapping[str, Any], given: Mapping[str, Tensor]
    ) -> Part:
        made = by_library(checkpoint, convert, dict(given), config)
        if len(made) < len(given):  # diffusers passes over what it does not know
            raise FlexEditError(
                f"{checkpoint} has {len(given) - len(made)} unexpected tensors beside "
                f"{next(iter(given))}. It is another system's, or a newer one's."
            )
        return part(config, made)

    drawn = dict(unet_tensors(weights))
    unet = converted(by_diffusers.convert_ldm_unet_checkpoint, config, drawn)
    weights.ignore(rf"model\.diffusion_model\..*|{COUNTERS}|{SCHEDULE}")

    own = {name: weights.take(name) for name in weights if name.startswith("first_stage_model.")}
    if vae is not None:
        encodes = part_of(vae)
    elif own:
        encodes = converted(by_diffusers.convert_ldm_vae_checkpoint, shape.vae, own)
    else:
        raise FlexEditError(f"{checkpoint} holds no VAE. Name one by --vae.")

    read = {name: weights.take(name) for name in weights if name.startswith(f"{TEXT}.")}
    assert text_encoder is not None
    text = part(shape.text, under(TEXT, read)) if read else part_of(text_encoder)
    weights.finish()
    return unet, {"text_encoder": text_part(text)}, encodes


def unet_tensors(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """The UNet's, averaged where they are: their names lack all dots, and the first part."""
    for name in weights:
        if name.startswith("model.diffusion_model."):
            averaged = "model_ema." + name.removeprefix("model.").replace(".", "")
            has_averages = "model_ema.decay" in weights or averaged in weights
            yield name, weights.take(averaged if has_averages else name)


def text_part(part: Part, pools: bool = False) -> Part:
    """Only the text encoder of a CLIP, under names that every version of transformers reads.

    pools: with the projection by which SDXL's second one gives a text as one vector
    """
    from transformers import CLIPTextConfig

    own = part.config.get("text_config")
    says = dict(own if isinstance(own, Mapping) else part.config)
    says["model_type"] = CLIPTextConfig.model_type
    config = by_library(part.where, CLIPTextConfig.from_dict, says).to_dict()
    named = {portable_name(name, config): tensor for name, tensor in part.tensors.items()}
    return Part(config, {k: t for k, t in named.items() if is_of_text(k, pools)}, part.where)


def is_of_text(name: str, pools: bool) -> bool:
    """``position_ids`` is a constant that old files carry."""
    if name == PROJECTION:
        return pools
    return name.startswith("text_model.") and not name.endswith(".position_ids")


def tokenizer_of(checkpoint: Path, text_encoder: Path | None, name: str) -> Path:
    """That of the text encoder ``name``. Raises FlexEditError if there is none."""
    own = checkpoint / name.replace("text_encoder", "tokenizer")
    named = [] if text_encoder is None else [text_encoder, text_encoder / "tokenizer"]
    folders = [own] if name == SECOND_TEXT else [*named, own]
    for folder in folders:
        if any((folder / name).is_file() for name in TOKENIZER):
            return folder
    raise FlexEditError(
        f"There is no tokenizer ({' or '.join(TOKENIZER)}) in {folders[0]}. Name by --text-encoder "
        "a folder that has one, such as openai/clip-vit-large-patch14 of the hub."
    )


# --- does it go together? ---


def require_eight_channels(weights: Weights, first: str) -> None:
    """first: the name of the UNet's first convolution."""
    found = weights.shape(first)[1]
    if found != CHANNELS:
        does = OTHERS.get(found, "is another system's")
        raise FlexEditError(
            f"{weights.where}: its UNet reads {found} channels, which {does}. InstructPix2Pix's "
            f"reads {CHANNELS}: the noisy latent and the scene's."
        )


def system_config(
    name: str, unet: Part, texts: Mapping[str, Part], checkpoint: Path
) -> SystemConfig:
    """Raises FlexEditError for parts that do not go together."""
    settings: dict[str, Any] = {
        "name": name,
        "unet": {key: value for key, value in unet.config.items() if key[0] != "_"},
        "sources": {part: {"folder": part} for part in (*texts, "vae")},
        "licences": LICENCES,
    }
    if SECOND_TEXT in texts:
        settings |= {"licences": XL_LICENCES, "sampling": XL_SAMPLING}
    if checkpoint.is_dir():
        settings["diffusion"] = diffusion_config(checkpoint / "scheduler/scheduler_config.json")
    sizes = {
        "num_embeddings": texts["text_encoder"].config["max_position_embeddings"],
        "width": sum(text.config["hidden_size"] for text in texts.values()),
    }
    return preset("instructpix2pix", settings, sizes)


# --- what is written ---


def write_text_encoder(text: Part, tokenizer: Path, folder: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig.from_dict(text.config)
    with torch.device("meta"):
        own = by_library(text.where, CLIPTextModelWithProjection, config).state_dict()
    named = {portable_name(name, text.config): tensor.shape for name, tensor in own.items()}
    pools = folder.name == SECOND_TEXT
    kept = {name: shape for name, shape in named.items() if is_of_text(name, pools)}
    check_shapes(kept, text.tensors, str(text.where))
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder)
    write_part(folder, as_planned(text.tensors), stored(text.tensors))


def write_vae(vae: Part, folder: Path) -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        model = by_library(vae.where, AutoencoderKL.from_config, vae.config)
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = {FORMER.sub(now, name): tensor for name, tensor in vae.tensors.items()}
    check_shapes(own, tensors, str(vae.where))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    write_part(folder, as_planned(tensors), stored(tensors), "diffusion_pytorch_model")


def now(name: re.Match[str]) -> str:
    return NOW[name[0]]


def write_unet(unet: Part, model: ModelFolder) -> None:
    """Beside it what its text encoder makes of no words: to that the edit is dropped."""
    with torch.device("meta"):
        own = FlexEditUNet(model.config.unet).checkpoint()
    tensors = {f"unet.{name}": tensor for name, tensor in unet.tensors.items()}
    check_shapes({name: tensor.shape for name, tensor in own.items()}, tensors, str(unet.where))
    tensors["null.edit"] = null_edit(model)
    write_trained(model.path, as_planned(tensors), model.config.name, torch.float16)


def null_edit(model: ModelFolder) -> Tensor:
    text = model.load_text()
    model.check_text(text)
    with torch.inference_mode():
        return text([""])[0]


def as_planned(tensors: Mapping[str, Tensor]) -> dict[str, Planned]:
    return {name: here(tensor) for name, tensor in tensors.items()}


def stored(tensors: Mapping[str, Tensor]) -> torch.dtype:
    return next(iter(tensors.values())).dtype
