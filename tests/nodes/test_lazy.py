import copy
import importlib.util
from pathlib import Path
from types import FunctionType

import pytest

PATH = Path(__file__).parents[2] / "nodes" / "runtime" / "lazy.py"  # the package needs a ComfyUI
spec = importlib.util.spec_from_file_location("lazy", PATH)
lazy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lazy)


class Part:
    def __init__(self, size: int) -> None:
        self.size = size
        self.patcher = None

    def is_dynamic(self) -> bool:  # as ComfyUI's VAE answers
        return getattr(self, "patcher", None) is not None


class LazyPart(lazy.Lazy, Part):
    pass


def test_a_part_is_built_at_the_first_look_and_only_then():
    built = []
    part = LazyPart(lambda self: (built.append(1), Part.__init__(self, 3)))
    assert built == []
    assert (part.size, part.size) == (3, 3)
    assert built == [1]


def test_a_part_that_fails_after_it_was_half_built_fails_again():
    def build(part: LazyPart) -> None:
        Part.__init__(part, 3)
        raise ValueError("an incomplete file")

    part = LazyPart(build)
    for _ in range(2):
        with pytest.raises(ValueError, match="incomplete"):
            _ = part.size


def test_asking_for_its_memory_builds_nothing():
    part = LazyPart(lambda part: pytest.fail("built"))
    assert part.get_ram_usage() == 0
    assert not part.is_dynamic()


def test_a_copy_and_its_original_are_built_once():
    built = []
    part = LazyPart(lambda self: (built.append(1), Part.__init__(self, 3)))
    copied = copy.copy(part)
    copied.patcher = "another"
    assert (part.size, part.patcher, copied.size) == (3, None, 3)
    assert built == [1]


@pytest.mark.parametrize("bookkeeper", lazy.BOOKKEEPERS)
def test_who_only_keeps_books_finds_no_patcher_and_builds_nothing(bookkeeper):
    def ask(part):
        return getattr(part, "patcher", None)

    there = FunctionType(ask.__code__, {"__name__": bookkeeper})  # as if it stood in that module
    assert there(LazyPart(lambda part: pytest.fail("built"))) is None
