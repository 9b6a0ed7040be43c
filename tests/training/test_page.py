"""docs/training.md, followed from its first command to its last with tiny parts."""

import shutil

from flexedit.cli import main
from tests.pages import ROOT, module, typed
from tests.tiny_pipelines import make_tiny_pipeline
from tests.training.mixed import make_data
from tests.training.plan import forget_precision
from tests.training.test_systems import small

PAGE = ROOT / "docs" / "training.md"
MORE = {  # what makes a command small
    ("train", "mini"): ["--stages", "parts", "--set", "num_texts=50"],
    ("train", "finetune-own"): ["--steps", "2", "--batch", "4", "--accumulate", "2"],
    ("bench", "build"): ["--single", "1", "--multi", "1"],
    ("assemble", "--pipeline"): ["--size", "64"],
}


def test_the_page_of_training_can_be_followed(tmp_path, monkeypatch, capsys):
    make_tiny_pipeline(tmp_path)
    make_data(tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "own", tmp_path / "edits")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd15").symlink_to("pipeline")
    (tmp_path / "llava").symlink_to("vllm")
    recipe = small(tmp_path, "flexedit-7b")
    ran = set()
    for command in typed(PAGE):
        name, words = module(command) or ("", [])
        if name != "flexedit" or command.startswith("torchrun") or "--help" in words:
            continue
        kind = tuple(words[:2])
        if kind == ("train", "flexedit-7b") and "--dry-run" not in words:
            words = words + recipe
        forget_precision()  # each command is a process of its own
        assert main(words + MORE.get(kind, [])) == 0, (command, capsys.readouterr().err)
        ran.add(kind)
    assert ran >= {*MORE, ("train", "flexedit-7b"), ("bench", "run")}
    assert (tmp_path / "runs" / "first" / "model" / "flexedit.json").is_file()
    assert (tmp_path / "results" / "report.json").is_file()
