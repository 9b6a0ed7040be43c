"""Where models lie: FlexEdit's below ``models/flexedit`` and inside this package; stock VLLMs below
``models/LLM`` and Segment Anything models below ``models/sams``, which other packs use as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import folder_paths

from ...flexedit.errors import FlexEditError
from ...flexedit.model_folder import CONFIG_FILE, EMBEDDED, ModelFolder

MODELS = "flexedit"
VLLMS = "LLM"
SAMS = "sams"
NONE_YET = "(none yet)"  # in a list of models: the page sends nothing at all from an empty list
SAM_TYPES = ("sam", "sam2", "edgetam")  # how config.json's model_type begins


def register() -> None:
    """Makes all of them places for models; paths from extra_model_paths.yaml stay.

    LLM and sams are not ours alone: which files of them are listed is left to whoever lists files.
    """
    for name in (MODELS, VLLMS, SAMS):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
    paths, _ = folder_paths.folder_names_and_paths[MODELS]
    folder_paths.folder_names_and_paths[MODELS] = (paths, {"folder"})


def model_folders() -> dict[str, Path]:
    """Name → folder of every model on this machine; of two with one name the first path wins."""
    found: dict[str, Path] = {}
    for root in folder_paths.get_folder_paths(MODELS):
        for config in sorted(Path(root).glob(f"*/{CONFIG_FILE}")):
            found.setdefault(config.parent.name, config.parent)
    return found


def model_names() -> list[str]:
    return [EMBEDDED, *(name for name in model_folders() if name != EMBEDDED)]


def open_model(name: str) -> ModelFolder:
    """A model by its name in the list; no other path can be reached."""
    if name == EMBEDDED:
        return ModelFolder.embedded()
    folder = model_folders().get(name)
    if folder is None:
        raise FlexEditError(
            f"There is no FlexEdit model {name!r}. Choose one of {', '.join(model_names())}, "
            f"or put its folder (with {CONFIG_FILE}) into models/{MODELS}."
        )
    return ModelFolder(folder)


def vllm_folders() -> dict[str, Path]:
    return _stock_folders(VLLMS, lambda config: "vision_config" in config)


def sam_folders() -> dict[str, Path]:
    return _stock_folders(
        SAMS, lambda config: str(config.get("model_type", "")).startswith(SAM_TYPES)
    )


def _stock_folders(place: str, fits: Callable[[dict[str, object]], bool]) -> dict[str, Path]:
    """Name → folder of every model that fits: ``<place>/<name>`` or ``<place>/<maker>/<name>``."""
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(place)):
        for config in _configs(root):
            if fits(_read(config)):
                found.setdefault(config.parent.relative_to(root).as_posix(), config.parent)
    return found


def _configs(root: Path) -> Iterator[Path]:
    """A model's own folders are not looked into."""
    for folder in sorted(root.glob("*/")):
        if (folder / "config.json").is_file():
            yield folder / "config.json"
        else:
            yield from sorted(folder.glob("*/config.json"))


def _read(config: Path) -> dict[str, object]:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no model that transformers could read
        return {}
    return content if isinstance(content, dict) else {}


def open_vllm(name: str) -> Path:
    return _open_stock(vllm_folders(), name, f"There is no VLLM {name!r}.", VLLMS)


def open_sam(name: str) -> Path:
    return _open_stock(sam_folders(), name, f"There is no SAM {name!r}.", SAMS)


def _open_stock(found: dict[str, Path], name: str, unknown: str, place: str) -> Path:
    """A stock model's folder by its name in the list; no other path can be reached."""
    if name not in found:
        known = f"Choose one of {', '.join(found)}, or put" if found else "Put"
        raise FlexEditError(
            f"{unknown} {known} its folder (config.json, processor and "
            f".safetensors weights, as transformers saves them) into models/{place}."
        )
    return found[name]


def stored_in_bf16(folder: Path) -> bool:
    """Whether a model's weights were made for bfloat16, whose range half precision lacks."""
    config = _read(folder / "config.json")
    return (config.get("dtype") or config.get("torch_dtype")) == "bfloat16"


def fingerprint(name: str) -> list[float]:
    """Changes when any of a FlexEdit model's files does."""
    return file_times(open_model(name).path)


def file_times(folder: Path) -> list[float]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.stat().st_mtime for path in files]
