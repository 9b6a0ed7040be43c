"""Lets PyPI's torchvision and torchaudio, which are built for CUDA, import beside a CPU-only torch.

Their compiled operators then cannot load, and both refuse to import. Nothing here calls them, so
torchvision is given declarations of the two that it fakes, and torchaudio goes without. `make`
installs this file for every Python of the environment. It does nothing until one of them is
imported, and nothing at all where the plain import works.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_libraries: list = []  # an operator lives as long as the library that declared it


def install() -> None:
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    """Loads a package a second time once what made it fail is mended."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> ModuleSpec | None:
        mend = _MENDED.get(name)
        spec = PathFinder.find_spec(name, path, target) if mend else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_mended(module: ModuleType) -> None:
            try:
                load(module)
            except (RuntimeError, OSError) as error:
                if not mend(error):
                    raise
                load(module)

        spec.loader.exec_module = load_mended
        return spec


def _declare_operators(error: Exception) -> bool:
    """What torchvision lacks, if that was why it failed → whether it was."""
    if "operator torchvision::" not in str(error):
        return False
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)
    return True


def _without_extension(error: Exception) -> bool:
    """Lets torchaudio find none of its own, if that was why it failed → whether it was."""
    loading = sys.modules.get("torchaudio._extension.utils")
    if loading is None or not isinstance(error, OSError):
        return False
    loading._load_lib = lambda name: False
    return True


_MENDED = {"torchvision": _declare_operators, "torchaudio": _without_extension}
