"""ComfyUI's own classes, built when they are first touched: an output nobody uses costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# These ask every output for a patcher only to keep books: what a prompt uses, what memory holds.
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
        self._build = None
        try:
            build(self)
        except BaseException:
            self.__dict__.clear()  # nothing half built may be found by the next look
            self._build = build
            raise
        return getattr(self, name)

    def get_ram_usage(self) -> int:
        """Bytes; ComfyUI asks every output of its cache, and asking must not read a file."""
        return 0 if self._build else self.patcher.get_ram_usage()
