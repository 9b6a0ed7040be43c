"""Where model folders lie: below ``models/flexedit``, and the embedded one inside this package."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...flexedit.checkpoint import CONFIG_FILE, EMBEDDED, WEIGHTS_FILE, ModelFolder
from ...flexedit.errors import FlexEditError

CATEGORY = "flexedit"


def register() -> None:
    """Makes ``models/flexedit`` a place for models; paths from extra_model_paths.yaml stay."""
    default = os.path.join(folder_paths.models_dir, CATEGORY)
    folder_paths.add_model_folder_path(CATEGORY, default)
    paths, _ = folder_paths.folder_names_and_paths[CATEGORY]
    folder_paths.folder_names_and_paths[CATEGORY] = (paths, {"folder"})


def model_folders() -> dict[str, Path]:
    """Name → folder of every model on this machine; of two with one name the first path wins."""
    found: dict[str, Path] = {}
    for root in folder_paths.get_folder_paths(CATEGORY):
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
            f"or put its folder (with {CONFIG_FILE}) into models/{CATEGORY}."
        )
    return ModelFolder(folder)


def fingerprint(name: str) -> list[float]:
    """Changes when the model's files do."""
    folder = open_model(name).path
    return [(folder / file).stat().st_mtime for file in (CONFIG_FILE, WEIGHTS_FILE)]
