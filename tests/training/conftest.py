import shutil
from pathlib import Path

import pytest

from flexedit.training.stages import MiniTraining
from tests.training.plan import tiny_plan


def forget_precision() -> None:
    """accelerate keeps the precision of a process's first Accelerator."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module", autouse=True)
def fresh_accelerate():
    """Each file has its own precision."""
    forget_precision()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A mini that was stopped at once, resumed, and trained to its end"""
    forget_precision()  # of the file before: this is made ahead of what a file does for itself
    folder = tmp_path_factory.mktemp("mini")
    MiniTraining(folder, tiny_plan()).run(max_seconds=0.0)
    assert {path.name for path in folder.iterdir()} == {"parts", "model", "seed", "vae"}
    assert not (folder / "vae" / "done").exists()
    MiniTraining(folder, tiny_plan()).run(("vae", "clip", "vision"))
    shutil.copytree(folder / "model" / "vllm", folder / "after vision")
    MiniTraining(folder, tiny_plan()).run()
    return folder
