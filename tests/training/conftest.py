import pytest


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate remembers the first Accelerator of a process; each test starts without one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
