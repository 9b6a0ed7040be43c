"""FlexEdit: free-shape masks, a vision language model and diffusion, for flexible image editing.

The way of one edit is told by :mod:`flexedit.pipeline`; read that first.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model_folder import ModelFolder
    from .models.config import SystemConfig
    from .pipeline import FlexEditPipeline
    from .request import EditRequest

__version__ = "0.1.0"
__all__ = ["EditRequest", "FlexEditPipeline", "ModelFolder", "SystemConfig", "__version__"]

HOMES = {
    "EditRequest": "request",
    "FlexEditPipeline": "pipeline",
    "ModelFolder": "model_folder",
    "SystemConfig": "models.config",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first asked for: most of them need torch."""
    if name == "strokes":  # where scripts that were written for docs/strokes.md look for it
        return import_module(".masks.strokes", __name__)
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{HOMES[name]}", __name__), name)
