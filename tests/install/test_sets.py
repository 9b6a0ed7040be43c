"""FlexEdit with other versions of its packages: `make test-installs` runs what is in inside.py in
an environment of each set.

An environment has its set's packages first and sees those of this one after them, so that torch is
downloaded once. SETS names the sets to run; by default all are.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.install import inside, tools
from tools.comfyui.fetch import PACK

pytestmark = [pytest.mark.installs, pytest.mark.slow]

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
        "filelock==3.12.0",
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
    "tests/models/vllm/test_lora.py",
    "tests/convert/test_instructpix2pix.py",
    "tests/models/vllm/test_families.py",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    inside.make(folder)
    return folder


@pytest.mark.parametrize("name", os.environ.get("SETS", "").split() or SETS)
def test_flexedit_works_with(name, made, tmp_path):
    python = tools.environment(name, SETS[name]) if SETS[name] else sys.executable
    wanted = dict(requirement.split("==") for requirement in SETS[name])
    places = {"MADE": str(made), "WRITTEN": str(tmp_path), "WANTED": json.dumps(wanted)}
    tests = [Path(inside.__file__).relative_to(PACK), *KINDS]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", *tests]
    print(tools.run(*command, cwd=PACK, env=os.environ | places, timeout=3600))
    inside.edit_all(made, tmp_path / "tiny-here", tmp_path / "tiny")
    inside.edit_all(made, tmp_path / "own-here", tmp_path / "run" / "model")
    for kind in ("tiny", "own"):
        there, here = tmp_path / f"{kind}-pictures", tmp_path / f"{kind}-here"
        assert max(inside.differences(there, here).values()) <= 1
