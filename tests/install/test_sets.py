"""FlexEdit with other versions of its packages: `make test-installs` runs what is in inside.py in
an environment of each set.

An environment has its set's packages first and sees those of this one after them, so that torch is
downloaded once. SETS names the sets to run; by default all are.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.install import inside, tools
from tools.comfyui.fetch import PACK

pytestmark = [pytest.mark.installs, pytest.mark.slow]

CACHE = PACK / ".cache" / "installs"
SETS = {
    "oldest": [  # what requirements.txt allows
        "transformers==4.57.1",  # 4.57.0 was withdrawn
        "diffusers==0.35.0",
        "peft==0.18.0",
        "accelerate==1.8.0",
        "safetensors==0.4.5",
        "huggingface_hub==0.34.0",
        "einops==0.8.0",
        "Pillow==10.0.0",
        "scipy==1.11.1",
        "scikit-image==0.22.0",
        "tqdm==4.66.0",
        "packaging==23.0",
        "pydantic==2.8.0",
        "PyYAML==6.0.1",
        "click==8.1.0",
        "PyYAML==6.0.1",
        "numpy==1.26.4",  # which the oldest scipy needs
    ],
    "transformers-4": ["transformers==4.57.6", "diffusers==0.35.2", "huggingface_hub==0.36.0"],
    "transformers-5.0": ["transformers==5.0.0", "diffusers==0.36.0", "peft==0.18.1"],
    "transformers-5.5": ["transformers==5.5.4", "diffusers==0.38.0", "peft==0.19.0"],
    "newest": [],  # of requirements-dev.txt: this very environment
}


KINDS = [  # tests of saving and loading a folder of each kind
    "tests/model_folder",
    "tests/models/vllm/test_stock.py",
    "tests/resolve/test_sam.py",
    "tests/training/test_lora.py",
]


def environment(name: str) -> Path:
    """The Python of an environment with a set's packages; made once."""
    if not SETS[name]:
        return Path(sys.executable)
    key = hashlib.sha256("\n".join([sys.version, *SETS[name]]).encode()).hexdigest()[:8]
    folder = CACHE / f"{name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        tools.run(sys.executable, "-m", "venv", "--without-pip", folder)
        site = tools.run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        Path(site.strip(), "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
        tools.run(*pip, *SETS[name])
        (folder / "ready").touch()
    return python


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    inside.make(folder)
    return folder


@pytest.mark.parametrize("name", os.environ.get("SETS", "").split() or SETS)
def test_flexedit_works_with(name, made, tmp_path):
    python = environment(name)
    wanted = dict(requirement.split("==") for requirement in SETS[name])
    places = {"MADE": str(made), "WRITTEN": str(tmp_path), "WANTED": json.dumps(wanted)}
    tests = [Path(inside.__file__).relative_to(PACK), *KINDS]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", *tests]
    print(run(*command, cwd=PACK, env=os.environ | places))
    inside.edit_all(made, tmp_path / "tiny-here", tmp_path / "tiny")
    inside.edit_all(made, tmp_path / "own-here", tmp_path / "run" / "model")
    for kind in ("tiny", "own"):
        there, here = tmp_path / f"{kind}-pictures", tmp_path / f"{kind}-here"
        assert max(inside.differences(there, here).values()) <= 1


def run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    return done.stdout
