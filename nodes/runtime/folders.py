"""Where model folders lie: below ``models/flexedit``, and the embedded one inside this package."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...flexedit.checkpoint import CONFIG_FILE, EMBEDDED, ModelFolder
from ...flexedit.errors import FlexEditError

MODELS = "flexedit"


def register() -> None:
    """Makes ``models/flexedit`` a place for models; paths from extra_model_paths.yaml stay."""
    default = os.path.join(folder_paths.models_dir, MODELS)
    folder_paths.add_model_folder_path(MODELS, default)
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


def fingerprint(name: str) -> list[float]:
    """Changes when any of the model's files does."""
    files = sorted(path for path in open_model(name).path.rglob("*") if path.is_file())
    return [path.stat().st_mtime for path in files]
