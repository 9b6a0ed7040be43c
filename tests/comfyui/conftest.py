from pathlib import Path

import pytest

from tools.comfyui.server import ComfyServer


@pytest.fixture(scope="session")
def model(comfy: ComfyServer, tiny: Path) -> str:
    """The name under which that model can be chosen in ComfyUI."""
    comfy.link_model("flexedit/tiny", tiny)
    return "tiny"
