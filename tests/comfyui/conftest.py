from collections.abc import Iterator

import pytest

from tests.comfyui.server import ComfyServer


@pytest.fixture(scope="session")
def comfy() -> Iterator[ComfyServer]:
    """One ComfyUI for the whole session."""
    with ComfyServer() as server:
        yield server
