"""Where models lie: FlexEdit's below ``models/flexedit`` and inside this package; stock VLLMs below
``models/LLM`` and Segment Anything models below ``models/sams``, which other packs use as well.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import folder_paths

from ...flexedit.errors import FlexEditError
from ...flexedit.model_folder import CONFIG_FILE, EMBEDDED, PRETRAINED, ModelFolder

log = logging.getLogger(__name__)

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
    found: dict[str, Path] = {EMBEDDED: PRETRAINED / EMBEDDED}
    for root in folder_paths.get_folder_paths(MODELS):
        for folder in _folders_in(Path(root)):
            if _has_file(folder, CONFIG_FILE):
                _add(found, folder.name, folder)
    return found


def model_names() -> list[str]:
    return list(model_folders())


def open_model(name: str) -> ModelFolder:
    """A model by its name in the list; no other path can be reached."""
    if name == EMBEDDED:
        return ModelFolder.embedded()
    folder = model_folders().get(str(name))
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
                _add(found, config.parent.relative_to(root).as_posix(), config.parent)
    return found


def _add(found: dict[str, Path], name: str, folder: Path) -> None:
    if not _is_same(first := found.setdefault(name, folder), folder):
        _say_once(
            f"FlexEdit never uses {folder}: {name} is {first}. Rename one of the two folders."
        )


def _is_same(one: Path, other: Path) -> bool:
    """Two places may be links to one."""
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _configs(root: Path) -> Iterator[Path]:
    """A model's own folders are not looked into."""
    for folder in _folders_in(root):
        if _has_file(folder, "config.json"):
            yield folder / "config.json"
        else:
            inner = _folders_in(folder)
            yield from (below / "config.json" for below in inner if _has_file(below, "config.json"))


def _read(config: Path) -> dict[str, object]:
    try:
        content = json.loads(config.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # nor could transformers read it
        _pass_over(config, error)
        return {}
    return content if isinstance(content, dict) else {}


# What lies in these places is not ours: nothing that is wrong with it may take the nodes away.


def _folders_in(place: Path) -> list[Path]:
    """The folders in a place, by name."""
    try:
        inside = sorted(place.iterdir())
    except FileNotFoundError:  # ComfyUI names places that nobody has made
        return []
    except OSError as error:
        _pass_over(place, error)
        return []
    return [path for path in inside if _is_folder(path)]


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:  # a link to nowhere, or to itself
        _pass_over(path, error)
        return False


def _has_file(folder: Path, name: str) -> bool:
    try:
        return stat.S_ISREG((folder / name).stat().st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        _pass_over(folder, error)
        return False


def _pass_over(path: Path, error: Exception) -> None:
    why = getattr(error, "strerror", None) or type(error).__name__
    _say_once(f"FlexEdit passes over {path}: {why}")


@cache  # the lists are reread at every look
def _say_once(message: str) -> None:
    log.warning(message)


def open_vllm(name: str) -> Path:
    return _open_stock(vllm_folders(), name, f"There is no VLLM {name!r}.", VLLMS)


def open_sam(name: str) -> Path:
    return _open_stock(sam_folders(), name, f"There is no SAM {name!r}.", SAMS)


def _open_stock(found: dict[str, Path], name: str, unknown: str, place: str) -> Path:
    """A stock model's folder by its name in the list; no other path can be reached."""
    if str(name) not in found:
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
    places = ((Path(place), names) for place, _, names in os.walk(folder))
    files = sorted(place / name for place, names in places for name in names)
    return [path.stat().st_mtime for path in files if os.path.isfile(path)]
