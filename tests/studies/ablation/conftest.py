import pytest

from tests.benchmark.conftest import tiny_benchmark  # noqa: F401
from tests.training.plan import forget_precision


@pytest.fixture(scope="module", autouse=True)
def fresh_accelerate():
    """Each file has its own precision."""
    forget_precision()
