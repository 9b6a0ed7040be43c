"""ComfyUI's own classes, built when they are first touched: an output nobody uses costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# These look for ``patcher`` in every output only to keep books: what a prompt uses, what memory
# holds. Others ask for it to compute, as ClipVisionModel.encode_image does first of all. Nothing
# but the asking module tells the two apart, so __getattr__ looks at its caller's frame.
BOOKKEEPERS = ("comfy.model_patcher", "comfy_execution.caching")


class Lazy:
    """Mixed in before a class whose instances get all their attributes in ``__init__``.

    ``build(self)`` runs at the first look at an attribute; if it fails, so does the next look.
    """

    def __init__(self, build: Callable[[Any], None]) -> None:
        self._build: Callable[[Any], None] | None = build

    def __getattr__(self, name: str) -> Any:
        build = self.__dict__.get("_build")
        asking = sys._getframe(1).f_globals.get("__name__")
        if build is None or name.startswith("__") or asking in BOOKKEEPERS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._read(build)
        return getattr(self, name)

    def _read(self, build: Callable[[Any], None]) -> None:
        self._build = None
        try:
            build(self)
        except BaseException:
            self.__dict__.clear()  # nothing half built may be found by the next look
            self._build = build
            raise

    def __copy__(self) -> Any:
        """A copy shares what is built, as any shallow copy does; so it is built by now."""
        if self._build:
            self._read(self._build)
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    # ComfyUI asks outputs in its cache for these two, and asking must not read a file.

    def get_ram_usage(self) -> int:
        """Bytes."""
        return 0 if self._build else self.patcher.model_size()

    def is_dynamic(self) -> bool:
        """Whether ComfyUI's dynamic VRAM has it, which frees memory by itself."""
        return not self._build and self.patcher.is_dynamic()
