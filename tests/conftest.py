"""What all tests share; whatever they import, they import it offline."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tools.comfyui.server import ComfyServer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny models compute for less time than threads wait for one another on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"


signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs behind a shell ignores it


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder with random weights; copy it before you change it."""
    from tests.tiny import make_tiny_folder

    return make_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini that was stopped at once, resumed, and trained to its end"""
    from flexedit.training.mini import MiniTraining
    from tests.training.plan import forget_precision, tiny_plan

    forget_precision()  # of the file before: this is made ahead of what a file does for itself
    folder = tmp_path_factory.mktemp("mini")
    MiniTraining(folder, tiny_plan()).run(max_seconds=0.0)
    assert {path.name for path in folder.iterdir()} == {"parts", "model", "seed", "vae"}
    assert not (folder / "vae" / "done").exists()
    MiniTraining(folder, tiny_plan()).run(("vae", "clip", "vision"))
    shutil.copytree(folder / "model" / "vllm", folder / "after vision")
    MiniTraining(folder, tiny_plan()).run()
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The Chromium that all tests share."""
    from tests.chromium import chromium_path
    from tools.comfyui.editor import launched

    with launched(chromium_path()) as browser:
        yield browser


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Each test has its own precision; accelerate would keep that of its first Accelerator."""
    from tests.training.plan import forget_precision

    forget_precision()
    yield
    forget_precision()


@pytest.fixture(autouse=True)
def no_loop_of_the_browser(request: pytest.FixtureRequest) -> Iterator[None]:
    """An open browser's event loop counts as running in this thread, where no other can run then:
    not so for tests without it.
    """
    loop = asyncio._get_running_loop()
    if "browser" not in request.fixturenames:
        asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop if loop else asyncio._get_running_loop())


@pytest.fixture(scope="session")
def comfy() -> Iterator[ComfyServer]:
    """The ComfyUI that all tests share, over HTTP and in the browser."""
    from tools.comfyui.server import ComfyServer

    with ComfyServer() as server:
        yield server
