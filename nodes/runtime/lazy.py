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
            self._build = build
            raise
        return getattr(self, name)
