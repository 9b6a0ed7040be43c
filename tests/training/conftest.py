import shutil
from pathlib import Path

import pytest

from flexedit.training.stages import MiniTraining
from tests.training.plan import tiny_plan


@pytest.fixture(scope="module", autouse=True)
def fresh_accelerate():
    """accelerate keeps the precision of a process's first Accelerator; each file has its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A mini that was stopped at once, resumed, and trained to its end"""
    folder = tmp_path_factory.mktemp("mini")
    MiniTraining(folder, tiny_plan()).run(max_seconds=0.0)
    assert {path.name for path in folder.iterdir()} == {"parts", "model", "seed", "vae"}
    assert not (folder / "vae" / "done").exists()
    MiniTraining(folder, tiny_plan()).run(("vae", "clip", "vision"))
    shutil.copytree(folder / "model" / "vllm", folder / "after vision")
    MiniTraining(folder, tiny_plan()).run()
    return folder
