"""A folder's AutoencoderKL as ComfyUI's VAE: of any number of levels, under ComfyUI's names."""

from __future__ import annotations

import re
from typing import Any

import comfy.sd
import torch
from torch import Tensor

from ...flexedit.errors import FlexEditError
from ...flexedit.model_folder import ModelFolder, check_keys
from ...flexedit.model_folder.weights import read_config, read_weights
from .lazy import Lazy
from .parts import PRECISIONS
from .weights import Width, require, set_norm_groups

FIXED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("AutoencoderKL",),
    "act_fn": ("silu",),
    "in_channels": (3,),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "out_channels": (3,),
    "shift_factor": (None, 0, 0.0),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
RENAMED = (  # diffusers → the names of ComfyUI's autoencoder
    (r"\bdown_blocks\.(\d+)\.resnets\.(\d+)\.", r"down.\1.block.\2."),
    (r"\bdown_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"\bup_blocks\.(\d+)\.resnets\.(\d+)\.", r"up.\1.block.\2."),
    (r"\bup_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.upsample."),
    (r"\bmid_block\.resnets\.0\.", "mid.block_1."),
    (r"\bmid_block\.resnets\.1\.", "mid.block_2."),
    (r"\bmid_block\.attentions\.0\.", "mid.attn_1."),
    (r"\battn_1\.group_norm\.", "attn_1.norm."),
    (r"\battn_1\.(?:to_q|query)\.", "attn_1.q."),
    (r"\battn_1\.(?:to_k|key)\.", "attn_1.k."),
    (r"\battn_1\.(?:to_v|value)\.", "attn_1.v."),
    (r"\battn_1\.(?:to_out\.0|proj_attn)\.", "attn_1.proj_out."),
    (r"\bconv_shortcut\.", "nin_shortcut."),
    (r"\bconv_norm_out\.", "norm_out."),
)


class FolderVAE(Lazy, comfy.sd.VAE):
    """ComfyUI's VAE, read from its folder when it is first used."""


def load_vae(folder: ModelFolder, precision: str) -> FolderVAE:
    def build(vae: FolderVAE) -> None:
        part = folder.part("vae")
        where = f"{folder.path.name}: vae"
        config = read_config(part)
        tensors = rename(read_weights(part), len(config["block_out_channels"]))
        # Half precision overflows in many VAEs: ComfyUI chooses, unless full is asked for.
        dtype = PRECISIONS[precision] if precision == "fp32" else None
        structure = autoencoder_config(config, where)
        try:
            comfy.sd.VAE.__init__(vae, sd=dict(tensors), config={"params": structure}, dtype=dtype)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise FlexEditError(
                f"{where}: {str(error).splitlines()[-1].strip()} "
                "Config and weights do not belong together; download or export the model again."
            ) from error
        check_keys(vae.first_stage_model.state_dict(), tensors, where)
        set_norm_groups(vae.first_stage_model, config.get("norm_num_groups", 32), where)
        vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(config["block_out_channels"]) - 1)
        vae.latent_channels = structure["embed_dim"]

    return FolderVAE(build)


def autoencoder_config(config: dict[str, Any], where: str = "vae") -> dict[str, Any]:
    """A diffusers AutoencoderKL config → the arguments of ComfyUI's AutoencoderKL."""
    require(config, FIXED, where)
    for name, kind in BLOCKS.items():
        if set(config[name]) != {kind}:
            raise FlexEditError(
                f"{where}: {name} is {config[name]}, but ComfyUI can run only {kind}."
            )
    channels = config["block_out_channels"]
    return {
        "embed_dim": config["latent_channels"],
        "ddconfig": {
            "double_z": True,
            "z_channels": config["latent_channels"],
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": channels[0],
            "ch_mult": [Width(width) for width in channels],
            "num_res_blocks": config["layers_per_block"],
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }


def rename(tensors: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Keys as ComfyUI has them; its levels of the decoder count from the other end."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"\bup\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", name) and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]  # a linear layer there is a 1 × 1 convolution here
        renamed[name] = tensor
    return renamed


def encode(vae: comfy.sd.VAE, picture: Tensor) -> Tensor:
    """picture (B, 3, H, W), padded to the VAE's ratio → its latent's mode (B, C, h, w), unscaled"""
    return vae.encode(picture.movedim(1, -1)).to(torch.float32)


def ratio(vae: comfy.sd.VAE) -> int:
    """Pixels per latent pixel."""
    return vae.spacial_compression_encode()
