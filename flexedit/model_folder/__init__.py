"""The model folder: ``flexedit.json``, ``flexedit.safetensors`` and the frozen parts beside them.

Each part is read when it is asked for, and strictly: a missing or unexpected key is named.
"""

from .folder import (
    CONFIG_FILE,
    EMBEDDED,
    PRETRAINED,
    WEIGHTS_FILE,
    ModelFolder,
    build_adapter,
    build_bridge,
    build_interaction,
    copy_part,
    save_model_folder,
    unet_layers,
)
from .keys import check_keys, check_shapes, load_strict
from .memory import memory_by_part
from .overview import overview
from .reading import (
    by_library,
    load_diffusers,
    load_image_encoder,
    load_pretrained,
    load_stock_vllm,
    load_text_encoder,
    load_vllm,
    vllm_family,
)

__all__ = [
    "CONFIG_FILE",
    "EMBEDDED",
    "PRETRAINED",
    "WEIGHTS_FILE",
    "ModelFolder",
    "build_adapter",
    "build_bridge",
    "build_interaction",
    "by_library",
    "check_keys",
    "check_shapes",
    "copy_part",
    "load_diffusers",
    "load_image_encoder",
    "load_pretrained",
    "load_stock_vllm",
    "load_strict",
    "load_text_encoder",
    "load_vllm",
    "memory_by_part",
    "overview",
    "save_model_folder",
    "unet_layers",
    "vllm_family",
]
