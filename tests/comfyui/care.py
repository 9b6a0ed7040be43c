"""What ComfyUI lists and has in its care; importing this makes the process a ComfyUI."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import inside

inside.enter()

import folder_paths  # noqa: E402
from comfy import model_management  # noqa: E402
from flexedit_pack.nodes.runtime import folders  # noqa: E402


def names(
    kind: str, extension: str, loader: Any, ours: Callable[[], Iterable[str]], root: str
) -> dict[str, Any]:
    """What is listed of a kind of models, with a place of other packs that was there before."""
    folder_paths.folder_names_and_paths[kind] = (["/elsewhere"], {extension})
    folders.register()
    before = loader.define_schema().inputs[0].options
    folder_paths.add_model_folder_path(kind, root)
    paths, extensions = folder_paths.folder_names_and_paths[kind]
    return {
        "names": list(ours()),
        "paths": paths,
        "extensions": sorted(extensions),
        "default": folder_paths.models_dir,
        "before": before,
    }


def models() -> list[Any]:
    return [one for one in model_management.current_loaded_models if one.model is not None]


def in_the_end(module: weakref.ref) -> dict[str, Any]:
    """What is left once nobody holds a model."""
    gc.collect()
    model_management.cleanup_models_gc()
    return {"kept": module() is not None, "loaded in the end": len(models())}
