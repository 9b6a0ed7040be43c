"""Whatever a test imports, it imports it offline and with a torchvision that loads."""

import os
from pathlib import Path

import pytest

from tests.comfyui import torchvision_cpu

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny models compute for less time than threads wait for one another on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torchvision_cpu.install()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder with random weights; copy it before you change it."""
    from tests.tiny import make_tiny_folder

    return make_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")
