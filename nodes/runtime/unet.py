"""A model folder's UNet as ComfyUI's own: its samplers, LoRAs, patches and memory management apply.

The weights stay mapped to their file until ComfyUI moves them; opening a model reads none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_sampling
import comfy.supported_models
import comfy.utils
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...flexedit.errors import FlexEditError
from ...flexedit.model_folder import ModelFolder, check_shapes
from ...flexedit.model_folder.keys import under
from ...flexedit.model_folder.weights import read_config
from ...flexedit.models.diffusion.sampling import DiffusionConfig
from . import subject
from .parts import PRECISIONS, ManagedPart
from .weights import Width, require, set_norm_groups, shapes

SD_SCALE = 0.18215  # of Stable Diffusion 1's latents

# What ComfyUI's UNet does in one way only; diffusers' defaults are among them.
FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None, "text_time"),  # the latter is SDXL's
    "addition_time_embed_dim": (None, 256),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "norm_eps": (1e-5,),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
NAMED = (  # structure has no defaults
    "block_out_channels",
    "cross_attention_dim",
    "down_block_types",
    "in_channels",
    "out_channels",
    "up_block_types",
)
OTHER_NAME = "class_embedding."  # that ComfyUI knows for SDXL's add_embedding
DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
PREDICTIONS = {
    "epsilon": comfy.model_sampling.EPS,
    "v_prediction": comfy.model_sampling.V_PREDICTION,
    "sample": comfy.model_sampling.X0,
}
BETA_SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear"}  # diffusers → ComfyUI


def unet_config(config: dict[str, Any], where: str = "UNet") -> dict[str, Any]:
    """A diffusers UNet2DConditionModel config → the arguments of ComfyUI's UNetModel."""
    if missing := [name for name in NAMED if name not in config]:
        raise FlexEditError(f"{where}: the config lacks {', '.join(missing)}.")
    require(config, FIXED, where)
    channels = config["block_out_channels"]
    levels = len(channels)
    down = _attends(config, "down_block_types", DOWN, where)
    up = _attends(config, "up_block_types", UP, where)[::-1]  # ComfyUI lists both from the top
    if len(down) != levels or len(up) != levels:
        raise FlexEditError(f"{where}: block types and block_out_channels differ in number.")
    num_res_blocks = _per_level(config, "layers_per_block", 2, levels, where)
    if len(set(num_res_blocks)) > 1:  # ComfyUI's table of names counts blocks by the first level
        raise FlexEditError(
            f"{where}: layers_per_block is {num_res_blocks}; ComfyUI needs the same in all levels."
        )
    depth = _per_level(config, "transformer_layers_per_block", 1, levels, where)
    pools = config.get("addition_embed_type") is not None
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [Width(width) for width in channels],
        "num_res_blocks": num_res_blocks,
        "transformer_depth": [
            depth[level] * down[level]
            for level in range(levels)
            for _ in range(num_res_blocks[level])
        ],
        "transformer_depth_output": [
            depth[level] * up[level]
            for level in range(levels)
            for _ in range(num_res_blocks[level] + 1)
        ],
        "transformer_depth_middle": depth[-1],
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config.get("use_linear_projection", False),
        "attn_precision": torch.float32 if config.get("upcast_attention") else None,
        "legacy": False,
        "num_classes": "sequential" if pools else None,
        "adm_in_channels": config["projection_class_embeddings_input_dim"] if pools else None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        **_heads(config, [a or b for a, b in zip(down, up, strict=True)], where),
    }


def _attends(config: dict[str, Any], name: str, kinds: dict[str, bool], where: str) -> list[bool]:
    for kind in config[name]:
        if kind not in kinds:
            raise FlexEditError(
                f"{where}: {name} names {kind!r}, but ComfyUI can run only {' and '.join(kinds)}."
            )
    return [kinds[kind] for kind in config[name]]


def _per_level(
    config: dict[str, Any], name: str, default: int, levels: int, where: str
) -> list[int]:
    value = config.get(name, default)
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels or not all(isinstance(value, int) for value in values):
        raise FlexEditError(
            f"{where}: {name} is {value!r}; ComfyUI needs one number, or one for each level."
        )
    return values


def _heads(config: dict[str, Any], attends: Sequence[bool], where: str) -> dict[str, int]:
    """diffusers' ``attention_head_dim`` is the number of heads, alike in all levels or not."""
    channels = config["block_out_channels"]
    heads = _per_level(config, "attention_head_dim", 8, len(channels), where)
    used = [level for level in range(len(channels)) if attends[level]] + [len(channels) - 1]
    if len(numbers := {heads[level] for level in used}) == 1:
        return {"num_heads": numbers.pop(), "num_head_channels": -1}
    if len(widths := {channels[level] / heads[level] for level in used}) == 1:
        return {"num_heads": -1, "num_head_channels": int(widths.pop())}
    raise FlexEditError(
        f"{where}: attention_head_dim is {heads} for block_out_channels {channels}; ComfyUI can "
        "run only one number of heads, or one width of a head, for all levels."
    )


class LatentFormat(comfy.latent_formats.LatentFormat):
    """The latents of the folder's VAE, of which nothing is read before a latent needs it.

    Those of Stable Diffusion 1 have previews; of others ComfyUI would show wrong colours.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self.latent_channels = folder.config.latent_channels
        self._folder = folder

    @cached_property
    def scale_factor(self) -> float:
        return read_config(self._folder.part("vae")).get("scaling_factor", SD_SCALE)

    @cached_property
    def latent_rgb_factors(self) -> list[list[float]] | None:
        return self._previews.latent_rgb_factors

    @cached_property
    def taesd_decoder_name(self) -> str | None:
        return self._previews.taesd_decoder_name

    @property
    def _previews(self) -> comfy.latent_formats.LatentFormat:
        is_stable_diffusion = self.latent_channels == 4 and self.scale_factor == SD_SCALE
        known = (
            comfy.latent_formats.SD15 if is_stable_diffusion else comfy.latent_formats.LatentFormat
        )
        return known()


class Config(comfy.supported_models.SD15_instructpix2pix):
    """What ComfyUI asks a model about itself; nothing is guessed from weights."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}


class ConfigXL(comfy.supported_models.SDXL_instructpix2pix):
    """The same of SDXL's shape"""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}


class FromFolder:
    """What a model folder says: the noise schedule, the prediction and the latents."""

    def __init__(self, config: Config, diffusion: DiffusionConfig, latents: LatentFormat) -> None:
        config.latent_format = latents
        config.sampling_settings = {
            "beta_schedule": BETA_SCHEDULES[diffusion.beta_schedule],
            "linear_start": diffusion.beta_start,
            "linear_end": diffusion.beta_end,
            "timesteps": diffusion.num_train_timesteps,
        }
        super().__init__(config, device=torch.device("meta"))
        self.device = torch.device("cpu")  # where the mapped weights will be
        self.model_sampling = model_sampling(config, diffusion.prediction_type)

    def concat_cond(self, **kwargs: Any) -> Tensor:
        """The scene's latent; scenes are repeated over a larger batch as the edits are: 0 1 0 1."""
        scene = kwargs.get("concat_latent_image")
        if scene is not None:
            batch = kwargs["noise"].shape[0]
            kwargs["concat_latent_image"] = comfy.utils.repeat_to_batch_size(scene, batch)
        return super().concat_cond(**kwargs)


class FlexEditModel(FromFolder, comfy.model_base.SD15_instructpix2pix):
    """ComfyUI's InstructPix2Pix with the folder's own settings."""


class FlexEditModelXL(FromFolder, comfy.model_base.SDXL_instructpix2pix):
    """ComfyUI's InstructPix2Pix of SDXL's shape with the folder's own settings."""


def model_sampling(config: Any, prediction_type: str) -> torch.nn.Module:
    class ModelSampling(comfy.model_sampling.ModelSamplingDiscrete, PREDICTIONS[prediction_type]):
        pass

    return ModelSampling(config)


def load_unet(folder: ModelFolder, mea: ManagedPart, precision: str) -> ModelPatcher:
    """The folder's UNet with decoupled cross-attention; the MEA's layers are loaded beside it."""
    where = f"{folder.path.name}: unet"
    tensors = under("unet", folder.tensors("unet"))
    kinds = (ConfigXL, FlexEditModelXL) if folder.config.pools else (Config, FlexEditModel)
    config = kinds[0](unet_config(folder.config.unet, where))
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    stored = next(iter(tensors.values()), torch.empty(0)).dtype
    config.set_inference_dtype(stored, _cast(stored, tensors, precision))
    model = kinds[1](config, folder.config.diffusion, LatentFormat(folder))
    set_norm_groups(model.diffusion_model, folder.config.unet.get("norm_num_groups", 32), where)
    own = shapes(model.diffusion_model)
    expected = {name: own[key] for name, key in names.items() if key in own}
    expected = {k: v for k, v in expected.items() if not k.startswith(OTHER_NAME)}
    check_shapes(expected, tensors, where)
    weights = {names[name]: tensor for name, tensor in tensors.items()}
    model.diffusion_model.load_state_dict(weights, assign=True)
    patcher = ModelPatcher(
        model,
        load_device=model_management.get_torch_device(),
        offload_device=model_management.unet_offload_device(),
    )
    adapter = folder.config.adapter
    attends_apart = adapter is not None and adapter.attends_apart
    if attends_apart or folder.config.interaction is not None:
        subject.install(patcher, mea, names, attends_apart)
    return patcher


def _cast(stored: torch.dtype, tensors: dict[str, Tensor], precision: str) -> torch.dtype | None:
    """What weights are cast to as they are used, None if they compute as they are stored."""
    device = model_management.get_torch_device()
    dtype = PRECISIONS[precision]
    if dtype is None:
        size = sum(tensor.numel() for tensor in tensors.values())
        dtype = model_management.unet_dtype(model_params=size, weight_dtype=stored)
        dtype = model_management.unet_manual_cast(dtype, device) or dtype
    return None if dtype == stored else dtype
