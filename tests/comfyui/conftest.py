import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.comfyui.server import ComfyServer
from tests.tiny import make_tiny_folder

# Tiny models compute for less time than threads wait for one another on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def comfy() -> Iterator[ComfyServer]:
    """One ComfyUI for the whole session."""
    with ComfyServer() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder with random weights; copy it before you change it."""
    return make_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def model(comfy: ComfyServer, tiny_folder: Path) -> str:
    """The name under which that model can be chosen in ComfyUI."""
    comfy.link_model("flexedit/tiny", tiny_folder)
    return "tiny"
