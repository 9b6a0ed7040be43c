"""A new part is one file, its line in a table and a YAML, in a copy of the pack."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TABLE = "flexedit/models/bridges/__init__.py"
PART = '''
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from ...validation import STRICT
from ..parts import Reading, Text
from .bridge import Bridge


class Linear(Bridge):
    """The first Q hidden states, through one layer."""

    @dataclass(frozen=True, config=STRICT)
    class Config:
        num_embeddings: int
        width: int
        hidden_width: int
        type: Literal["linear"] = "linear"

    prefix = "linear"

    def __init__(self, config: Config) -> None:
        super().__init__(config.num_embeddings, config.width)
        self.layer = nn.Linear(config.hidden_width, config.width)

    def forward(self, reading: Reading) -> Text:
        states = reading.hidden_states[:, : len(self.null_edit)]
        return Text(self.layer(states.to(self.layer.weight.dtype)))
'''


def test_a_bridge_of_ones_own_trains_and_edits_like_any_other(tmp_path):
    pack = shutil.copytree(
        ROOT, tmp_path / "pack", ignore=shutil.ignore_patterns(".*", "runs", "out", "node_modules")
    )
    (ROOT / ".cache").mkdir(exist_ok=True)  # of a ComfyUI, downloaded or to be
    (pack / ".cache").symlink_to(ROOT / ".cache")
    (pack / "flexedit/models/bridges/linear.py").write_text(PART)
    table = (pack / TABLE).read_text()
    table = table.replace("from .qformer", "from .linear import Linear\nfrom .qformer")
    table = table.replace(" = {\n", ' = {\n    "linear": Linear,\n', 1)
    (pack / TABLE).write_text(table)
    system = yaml.safe_load((pack / "flexedit/systems/flexedit.yaml").read_text())
    system["bridge"] = {
        "type": "linear", "num_embeddings": 77, "width": 768, "hidden_width": 4096
    }  # fmt: skip
    (pack / "flexedit/systems/toy.yaml").write_text(yaml.safe_dump(system))

    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-k",
        "toy",
        "tests/systems/test_conformance.py",
    ]
    environment = os.environ | {"PYTHONPATH": str(pack)}
    ran = subprocess.run(command, cwd=pack, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert "7 passed" in ran.stdout
