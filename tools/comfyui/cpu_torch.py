"""Lets PyPI's torchvision and torchaudio, which are built for CUDA, import beside a CPU-only torch.

Their compiled operators then cannot load, and both refuse to import. Nothing here calls them, so
torchvision is given declarations of the two that it fakes, and torchaudio goes without. `install`
does nothing until one of them is imported, and nothing at all where the plain import works.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

_OPERATORS = ("nms", "qnms")
_libraries: list = []  # an operator lives as long as the library that declared it


def install() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname not in _MENDED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader, _MENDED[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, mend: Callable[[Exception], bool]):
        self.loader = loader
        self.mend = mend

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self.loader.exec_module(module)
        except (RuntimeError, OSError) as error:
            if not self.mend(error):
                raise
            self.loader.exec_module(module)

    def __getattr__(self, name: str):
        return getattr(self.loader, name)


def _declare_operators(error: Exception) -> bool:
    """What torchvision lacks, if that was why it failed → whether it was."""
    if "operator torchvision::" not in str(error):
        return False
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
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
