import json
import re
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flexedit.cli import main
from flexedit.convert.assemble import assemble
from flexedit.data.edits import INDEX, Edits
from flexedit.data.world import World, write
from flexedit.errors import FlexEditError
from flexedit.model_folder import WEIGHTS_FILE, ModelFolder
from flexedit.pipeline import FlexEditPipeline
from flexedit.training.batch import collate
from flexedit.training.model import TrainingModel
from flexedit.training.monitor import curve
from flexedit.training.own import OwnTraining, own_recipe
from tests.tiny import INSTRUCT_PIX2PIX, make_tiny_folder
from tests.tiny_pipelines import make_tiny_pipeline

SETTINGS = {"steps": 2, "batch_size": 4, "lr": 1e-3, "log_every": 1, "mixed_precision": "no"}
JOINT, BOTH = ("joint",), ("align", "joint")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``edits``, and ``model`` to start from"""
    folder = tmp_path_factory.mktemp("own")
    write(World(64, seed=7), range(12), folder / "edits")
    make_tiny_folder(folder / "model", vllm={"lora": {"dropout": 0.3}})
    return folder


def training(
    folder: Path, out: Path, names: Sequence[str] = JOINT, **changes: object
) -> OwnTraining:
    data, recipe = Edits(folder / "edits", 64), own_recipe(names, **SETTINGS | changes)
    return OwnTraining(out, ModelFolder(folder / "model"), data, data, recipe)


def test_a_model_learns_ones_own_edits(folder, tmp_path):
    """All of its parts move, the loss falls, and the result is a model folder that edits."""
    settings = {"steps": 30, "batch_size": 8, "lr": 3e-3, "warmup": 3, "validate_every": 30}
    assert training(folder, tmp_path / "run", **settings).run()
    losses = [row["diffusion"] for row in curve(tmp_path / "run" / "joint")]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    before, after = (ModelFolder(path) for path in (folder / "model", tmp_path / "run" / "model"))
    old, new = before.all_tensors(), after.all_tensors()
    assert set(old) == set(new) and after.config == before.config
    moved = [key for key, tensor in old.items() if not torch.equal(tensor.half(), new[key].half())]
    assert {key.partition(".")[0] for key in moved} == {"unet", "mea", "qformer", "lora", "tokens"}
    for file in ("vllm/model.safetensors", "clip/config.json", "vae/config.json"):
        assert (after.path / file).read_bytes() == (before.path / file).read_bytes()
    picture = FlexEditPipeline(after, "cpu")(collate([World(64)[0]]).request, num_steps=1).picture
    assert picture.isfinite().all()
    grid = Image.open(tmp_path / "run" / "pictures" / "000030.png")
    assert grid.size == (16 * 64, 3 * 64)


def test_both_stages_train_what_others_parts_make(tmp_path):
    """From a Stable Diffusion, a CLIP and a LLaVA to a FlexEdit model"""
    pipeline = make_tiny_pipeline(tmp_path)
    assemble(pipeline, tmp_path / "clip", tmp_path / "vllm", tmp_path / "model", size=64)
    write(World(64, seed=8), range(4), tmp_path / "edits")
    assert training(tmp_path, tmp_path / "run", BOTH).run()
    assert set(curve(tmp_path / "run" / "align")[0]) == {"step", "seconds", "reply", "align"}
    assert set(curve(tmp_path / "run" / "joint")[0]) == {"step", "seconds", "reply", "diffusion"}
    model = ModelFolder(tmp_path / "run" / "model")
    old, new = ModelFolder(tmp_path / "model").all_tensors(), model.all_tensors()
    scene = new["unet.conv_in.weight"][:, 4:]  # the UNet begins to see the scene
    assert scene.any() and not old["unet.conv_in.weight"][:, 4:].any()
    picture = FlexEditPipeline(model, "cpu")(collate([World(64)[0]]).request, num_steps=1).picture
    assert picture.isfinite().all()


class Cut(Exception):
    """The power fails."""


def cut_in_step(number: int, monkeypatch) -> None:
    calls, forward = [], TrainingModel.forward

    def failing(system, batch, draw):
        calls.append(batch)
        if len(calls) == number:
            raise Cut
        return forward(system, batch, draw)

    monkeypatch.setattr(TrainingModel, "forward", failing)


def test_a_broken_run_goes_on_to_what_an_unbroken_one_becomes(folder, tmp_path):
    def own(out: Path) -> OwnTraining:
        return training(folder, out, BOTH, steps=6, checkpoint_every=2, ema=0.9)

    assert own(tmp_path / "unbroken").run()
    for step in (5, 2 + 5):  # of align; then of its two steps that are left, and joint
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
            cut_in_step(step, patch)
            own(tmp_path / "broken").run()
        assert not (tmp_path / "broken" / "model").exists()
    assert [row["step"] for row in curve(tmp_path / "broken" / "joint")] == [1, 2, 3, 4]
    (tmp_path / "broken" / "align" / WEIGHTS_FILE).unlink()  # older versions did not write it
    shutil.rmtree(tmp_path / "broken" / "align" / "checkpoint-6")  # nobody goes back to it
    assert own(tmp_path / "broken").run()
    unbroken, broken = (
        ModelFolder(tmp_path / name / "model").all_tensors() for name in ("unbroken", "broken")
    )
    assert all(torch.equal(unbroken[key], broken[key]) for key in unbroken)


def test_a_finished_training_goes_on_with_more_steps(folder, tmp_path):
    for steps in (2, 4):
        assert training(folder, tmp_path / "run", BOTH, steps=steps).run()
    assert [row["step"] for row in curve(tmp_path / "run" / "joint")] == [1, 2, 3, 4]
    assert [row["step"] for row in curve(tmp_path / "run" / "align")] == [1, 2]


def test_a_stage_is_gone_before_the_next_one_comes(folder, tmp_path, monkeypatch):
    """A VLLM fits onto a GPU once."""
    alive: list[weakref.ref] = []
    build = TrainingModel.__init__

    def building(system, *words):
        assert not any(one() for one in alive)
        alive.append(weakref.ref(system))
        build(system, *words)

    monkeypatch.setattr(TrainingModel, "__init__", building)
    assert training(folder, tmp_path / "run", BOTH).run()
    assert len(alive) == 2


def test_a_vllm_in_half_the_memory_learns_too(folder, tmp_path, monkeypatch):
    """With bf16 autocast the frozen weights are bf16; what is trained stays float32."""
    systems, start_from = [], TrainingModel.start_from
    monkeypatch.setattr(
        TrainingModel,
        "start_from",
        lambda system, tensors: systems.append(system) or start_from(system, tensors),
    )
    settings = {"mixed_precision": "bf16", "validate_every": 2}
    assert training(folder, tmp_path / "run", **settings).run()
    dtypes = {p.requires_grad: p.dtype for p in systems[0].vllm.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    handed_on = load_file(tmp_path / "run" / "joint" / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in handed_on.values()} == {torch.float32}
    assert (tmp_path / "run" / "pictures" / "000002.png").is_file()


def test_a_model_without_a_vllm_is_trained_too(folder, tmp_path):
    """InstructPix2Pix's way: its text encoder reads what a person said."""
    shutil.copytree(folder / "edits", tmp_path / "edits")
    make_tiny_folder(tmp_path / "model", **INSTRUCT_PIX2PIX)
    assert training(tmp_path, tmp_path / "run").run()
    assert set(curve(tmp_path / "run" / "joint")[0]) == {"step", "seconds", "diffusion"}
    with pytest.raises(FlexEditError, match="neither a VLLM nor a Q-Former to align"):
        training(tmp_path, tmp_path / "other", BOTH)


def test_rows_that_name_nothing_do_not_teach_to_say_nothing(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    shutil.copytree(folder / "edits", tmp_path / "edits")
    rows = [json.loads(line) for line in (folder / "edits" / INDEX).read_text().splitlines()]
    silent = [row | {"reply": None, "label": None} for row in rows if row["task"] != "ask"]
    (tmp_path / "edits" / INDEX).write_text("".join(json.dumps(row) + "\n" for row in silent))
    assert training(tmp_path, tmp_path / "run").run()
    for row in curve(tmp_path / "run" / "joint"):
        assert row["reply"] == 0 and row["diffusion"] > 0


def test_torchrun_leaves_the_documented_words_alone():
    from torch.distributed.run import get_args_parser

    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    words = re.search(r"`torchrun (.+?)…`", page).group(1).split()
    common = ["--data", "edits", "--model", "my-model", "--out", "runs", "--stages", "align,joint"]
    parsed = get_args_parser().parse_args([*words, *common, "--steps", "2", "--batch", "4"])
    assert parsed.training_script == "flexedit" and parsed.training_script_args[-1] == "4"


def test_questions_alone_train_what_answers(folder, tmp_path):
    lines = (folder / "edits" / INDEX).read_text().splitlines()
    row = json.loads(lines[0])
    asked = {name: row[name] for name in ("scene", "mask", "label")} | {"task": "ask"}
    shutil.copytree(folder / "edits", tmp_path / "edits")
    (tmp_path / "edits" / INDEX).write_text(json.dumps(asked) + "\n")
    shutil.copytree(folder / "model", tmp_path / "model")
    assert training(tmp_path, tmp_path / "run").run()
    assert not (tmp_path / "run" / "pictures").exists()
    assert curve(tmp_path / "run" / "joint")[-1]["diffusion"] == 0


# Bad input


@pytest.mark.parametrize("names", [("joint", "align"), ("joint", "export"), ("vae",)])
def test_stages_are_known_and_in_order(names, folder, tmp_path):
    with pytest.raises(FlexEditError, match="choose from align, joint, in this order"):
        training(folder, tmp_path / "run", names)


def test_a_folder_of_another_training_is_left_alone(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "here")
    training(tmp_path / "here", tmp_path / "run").run()
    kept = (tmp_path / "run" / "model" / "flexedit.safetensors").read_bytes()
    with pytest.raises(FlexEditError, match="another model, other data or other stages"):
        training(tmp_path / "here", tmp_path / "run", BOTH).run()
    index = tmp_path / "here" / "edits" / INDEX
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:5]))
    with pytest.raises(FlexEditError, match="Choose another --out"):
        training(tmp_path / "here", tmp_path / "run").run()
    for precious in (tmp_path / "here" / "edits", tmp_path / "here" / "model"):
        files = sorted(precious.iterdir())
        with pytest.raises(FlexEditError, match="holds something else"):
            training(folder, precious).run()
        assert sorted(precious.iterdir()) == files
    assert (tmp_path / "run" / "model" / "flexedit.safetensors").read_bytes() == kept


# The command line


def run(folder: Path, out: Path, *words: object) -> int:
    common = ("--data", folder / "edits", "--model", folder / "model", "--out", out)
    return main(list(map(str, ("train", "own", *common, *words))))


def test_the_command_line_trains_and_goes_on(folder, tmp_path, capsys):
    out, words = tmp_path / "run", ("--steps", 2, "--batch", 2, "--lr", "1e-3")
    assert run(folder, out, *words, "--minutes", 0) == 0
    assert "finished: False" in capsys.readouterr().out
    assert run(folder, out, *words, "--show", folder / "edits", "--show-every", 1) == 0
    assert f"out: {out / 'model'}" in capsys.readouterr().out
    assert {path.name for path in (out / "pictures").iterdir()} == {"000001.png", "000002.png"}
    assert main(["info", "--model", str(out / "model")]) == 0


def test_each_stage_has_a_learning_rate_of_its_own(folder, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        OwnTraining, "run", lambda own, max_seconds: seen.update(own.recipe) or True
    )
    assert run(folder, tmp_path / "run", "--stages", "align,joint", "--ema", 0.9) == 0
    trained = {name: stage.train for name, stage in seen.items()}
    assert {name: train.lr for name, train in trained.items()} == {"align": 2e-4, "joint": 1e-5}
    assert all(train.ema == 0.9 and train.steps == 1000 for train in trained.values())


def test_an_option_stands_above_a_setting_and_that_above_the_recipe(folder, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        OwnTraining, "run", lambda own, max_seconds: seen.update(own.recipe) or True
    )
    settings = ("steps=7", "optimizer=muon", "batch_size=8")
    words = [word for it in settings for word in ("--set", f"stages.joint.train.{it}")]
    assert run(folder, tmp_path / "run", *words, "--batch", 4) == 0
    train = seen["joint"].train
    assert (train.steps, train.optimizer, train.batch_size) == (7, "muon", 4)
    assert (train.validate_every, train.accumulate) == (500, 1)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--data", "nowhere"), "nowhere/index.jsonl cannot be read"),
        (("--model", "nowhere"), "no model folder nowhere"),
        (("--stages", "joint,joint2"), "choose from align, joint, in this order"),
        (("--batch", 3, "--accumulate", 2), "batch_size 3 does not divide"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(words, complaint, folder, tmp_path, capsys):
    assert run(folder, tmp_path / "run", *words) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("flexedit: ") and complaint in said


@pytest.mark.parametrize(
    "words", [("--lr", 0), ("--ema", 1), ("--steps", 0), ("--lr", "nan"), ("--seed", 2**32)]
)
def test_numbers_that_train_nothing_are_refused(words, folder, tmp_path, capsys):
    assert run(folder, tmp_path / "run", *words) == 2
    assert "Invalid value for '--" in capsys.readouterr().err
