"""Whatever a test imports, it imports it offline and with a torchvision that loads."""

import os

from tests.comfyui import torchvision_cpu

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torchvision_cpu.install()
