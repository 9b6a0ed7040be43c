from collections.abc import Callable

import pytest

from studies.logs import KEYS, NUMBERS, Log
from tests.benchmark.conftest import tiny_benchmark  # noqa: F401
from tests.training.plan import forget_precision

CASE = {
    "form": "free", "group": "multi", "operation": "add", "kind": "circle",
    "subject_setting": "simple", "status": "ok",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def fresh_accelerate():
    """Each file has its own precision."""
    forget_precision()
    yield
    forget_precision()


@pytest.fixture
def log() -> Callable[..., Log]:
    """Of a variant, a seed and the success of each of its cases"""

    def make(variant: str, seed: int, *success: float) -> Log:
        rows = tuple(
            dict.fromkeys(NUMBERS) | CASE | {"case": str(number), "success": value}
            for number, value in enumerate(success)
        )
        assert all(set(row) == {*KEYS, *NUMBERS} for row in rows)
        return Log({"variant": variant, "seed": seed}, (), rows)

    return make
