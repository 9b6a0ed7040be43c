"""docs/training.md, followed from its first command to its last with tiny parts."""

import shlex
import shutil

from flexedit.model_folder import PRETRAINED
from tests.following import follow
from tests.tiny_pipelines import make_tiny_pipeline
from tests.training.mixed import make_data
from tests.training.test_systems import small

PARTS = "--stages parts --set num_texts=50"


def test_the_page_of_training_can_be_followed(tmp_path, monkeypatch):
    make_tiny_pipeline(tmp_path)
    make_data(tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "own", tmp_path / "edits")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flexedit").mkdir()
    (tmp_path / "flexedit" / "pretrained").symlink_to(PRETRAINED)
    (tmp_path / "sd15").symlink_to("pipeline")
    (tmp_path / "llava").symlink_to("vllm")
    recipe = shlex.join(small(tmp_path, "flexedit-7b"))
    exchanged = {
        "--set stages.joint.train.accumulate=16": recipe,
        "bench build --out fsmi-edit": "bench build --out fsmi-edit --single 1 --multi 1",
        "train mini --out runs/mini": "train mini --out runs/mini " + PARTS,
        "--out my-model": "--out my-model --size 64",
        "--steps 20000 --batch 128 --accumulate 8": "--steps 2 --batch 4 --accumulate 2",
        "--steps 5000": "--steps 2 --batch 4",
        "rows=4096": "rows=16",
    }
    ran = follow("docs/training.md", exchanged)
    assert len(ran) == 10
    assert (tmp_path / "runs" / "first" / "model" / "flexedit.json").is_file()
    assert (tmp_path / "results" / "report.json").is_file()
