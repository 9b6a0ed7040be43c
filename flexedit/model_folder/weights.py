"""A part's tensors on disk, under names that every version of transformers reads.

transformers 5.6 dropped a level (``vision_model.``, ``text_model.``) from names inside CLIP's and
SigLIP's towers, where they stand alone or in a LLaVA; 5.5 put ``model.`` before most of a LLaVA's.
Both still read the older names; but older versions find none of the newer ones, and make up random
weights. So we write the older names, and hand a folder of newer ones on under the older.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import FlexEditError
from ..files import read_json

VISION_TOWERS = ("clip_vision_model", "siglip_vision_model")
# what follows the level that went
INSIDE = r"(?=(embeddings|encoder|pre_layrnorm|post_layernorm|final_layer_norm|head)\.)"
# what follows the one that came
LLAVA = r"(?=(language_model\.model|multi_modal_projector|vision_tower)\.)"


def portable_name(name: str, config: Mapping[str, Any]) -> str:
    """A tensor's name as every version of transformers reads it; ``config``: its config.json."""
    kind, vision = config.get("model_type"), config.get("vision_config")
    if kind in VISION_TOWERS:
        return re.sub(f"^{INSIDE}", "vision_model.", name)
    if kind == "clip_text_model":
        return re.sub(f"^{INSIDE}", "text_model.", name)
    if isinstance(vision, Mapping):
        name = re.sub(rf"^model\.{LLAVA}", "", name)
        if vision.get("model_type") in VISION_TOWERS:
            name = re.sub(rf"^vision_tower\.{INSIDE}", "vision_tower.vision_model.", name)
    return name


def make_portable(folder: Path) -> None:
    """Gives the tensors of a folder whose weights are one file their portable names."""
    if is_portable(folder):
        return
    config = read_config(folder)
    for file in _files(folder):
        tensors = {portable_name(name, config): t.clone() for name, t in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})  # not over what is mapped: clones


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Raises FlexEditError for a file that cannot be read or holds anything but settings."""
    try:
        config = read_json(folder / name)
    except FlexEditError as error:
        raise unreadable(folder, error) from error
    if not isinstance(config, dict):
        raise unreadable(folder, f"{name} holds no settings")
    return config


def is_portable(folder: Path) -> bool:
    """Whether every version of transformers reads a folder's tensors as they are named."""
    config = read_config(folder)
    return all(portable_name(name, config) == name for name, _ in _stored(folder))


def read_weights(folder: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """The tensors of all .safetensors files in a folder whose portable names begin with a prefix.

    Raises FlexEditError if there are none, or if a file cannot be read.
    """
    config, tensors = read_config(folder), {}
    for name, read in _stored(folder):
        if (portable := portable_name(name, config)).startswith(prefixes):
            tensors[portable] = read(name)
    return tensors


def _stored(folder: Path) -> Iterator[tuple[str, Callable[[str], Tensor]]]:
    """Every tensor's name, and what reads it by its name."""
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a dict
                    yield name, weights.get_tensor
        except (SafetensorError, OSError) as error:
            raise unreadable(folder, f"{file.name}: {error}") from error


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if plain := [file for file in files if ".fp16." not in file.name]:
        files = plain  # a half-precision copy may lie beside the weights
    if not files:
        raise unreadable(folder, "there are no .safetensors files")
    return files


def unreadable(folder: Path, why: object) -> FlexEditError:
    return FlexEditError(
        f"{folder} cannot be loaded ({why}). It must hold a complete model with .safetensors "
        "weights; download or export it again."
    )
