"""Makes packages look as if nobody had installed them, from now on in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution


class HidingFinder:
    """Python's own search of sys.path, but for some packages."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name.partition(".")[0] in self.names:
            return None
        return PathFinder.find_spec(name, path, target)

    def find_distributions(self, *context) -> Iterator[Distribution]:
        for distribution in PathFinder.find_distributions(*context):
            if distribution.metadata["Name"] not in self.names:
                yield distribution

    def invalidate_caches(self) -> None:
        PathFinder.invalidate_caches()


def hide(*names: str) -> None:
    """``names``: of modules, and of the distributions that have another name."""
    for module in list(sys.modules):
        if module.partition(".")[0] in names:
            del sys.modules[module]
    for place, finder in enumerate(sys.meta_path):
        if finder is PathFinder:
            sys.meta_path[place] = HidingFinder(names)
        elif isinstance(finder, HidingFinder):
            finder.names.update(names)
