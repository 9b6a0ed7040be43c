import pytest


@pytest.fixture(scope="module", autouse=True)
def fresh_accelerate():
    """accelerate keeps the precision of a process's first Accelerator; each file has its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
