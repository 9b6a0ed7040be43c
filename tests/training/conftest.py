import pytest

from tests.training.plan import forget_precision


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Each test has its own precision."""
    forget_precision()
