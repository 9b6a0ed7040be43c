from pathlib import Path

import pytest

from tests.comfyui.server import ComfyServer


@pytest.fixture(scope="session")
def tiny_folder(tiny: Path) -> Path:
    """A whole model folder with random weights; copy it before you change it."""
    return tiny


@pytest.fixture(scope="session")
def model(comfy: ComfyServer, tiny_folder: Path) -> str:
    """The name under which that model can be chosen in ComfyUI."""
    comfy.link_model("flexedit/tiny", tiny_folder)
    return "tiny"
