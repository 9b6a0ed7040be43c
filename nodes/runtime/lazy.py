"""ComfyUI's own classes, built when they are first touched: an output nobody uses costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Lazy:
    """Mixed in before a class whose instances get all their attributes in ``__init__``.

    ``build(self)`` runs at the first look at an attribute; if it fails, so does the next look.
    """

    def __init__(self, build: Callable[[Any], None]) -> None:
        self._build: Callable[[Any], None] | None = build

    def __getattr__(self, name: str) -> Any:
        build = self.__dict__.get("_build")
        if build is None or name.startswith("__"):
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
