"""Recipes of whole systems: dry runs at full size, and training at mini size."""

import json
import re
import sys
from collections import Counter
from concurrent.futures import Future
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi, RepoUrl

from flexedit.cli import main
from flexedit.data.readers import DATA_SETS
from flexedit.errors import FlexEditError
from flexedit.model_folder import EMBEDDED, PRETRAINED, ModelFolder
from flexedit.training import checkpoint
from flexedit.training.draws import Losses
from flexedit.training.hub import Hub
from flexedit.training.model import TrainingModel
from flexedit.training.monitor import curve
from flexedit.training.own import RECIPE
from flexedit.training.plan import Plan, plans
from flexedit.training.processes import layer_classes
from flexedit.training.recipe import SYSTEM_RECIPES, StageRecipe, system_recipe
from flexedit.training.trainer import TrainConfig
from tests.tiny import make_tiny_folder
from tests.tiny_pipelines import make_tiny_pipeline
from tests.training.mixed import CAPTIONS, MIXED, make_data


def run(*words: object) -> int:
    return main([str(word) for word in words])


# What is shipped


@pytest.mark.parametrize("name", SYSTEM_RECIPES)
def test_a_recipe_names_data_sets_that_there_are_and_stages_that_train(name):
    recipe = system_recipe(name)
    for mixture in recipe.data.values():
        for part in mixture.data:
            assert part.source.partition(":")[0] in DATA_SETS
    for stage in recipe.stages.values():
        assert stage.losses.parts and stage.train.steps > stage.train.warmup
    assert list(recipe.stages)[-1] == "joint" == recipe.stages["joint"].losses.stage


@pytest.mark.parametrize("name", SYSTEM_RECIPES)
def test_a_dry_run_says_what_a_recipe_will_be_without_a_download(name, tmp_path, capsys):
    assert run("train", name, "--dry-run", "--gpus", 8, "--rate", 90, "--out", tmp_path / "x") == 0
    said = capsys.readouterr().err
    recipe = system_recipe(name)
    for stage, settings in recipe.stages.items():
        assert f"stage {stage}: {settings.train.steps:,} steps" in said
    for word in ("latent 1×4×", "unet ", "vae ", "hours", "disk: ", "ddp ", "fsdp ", "deepspeed "):
        assert word in said
    assert not list(tmp_path.iterdir())


def test_a_dry_run_counts_what_flexedit_7b_trains(monkeypatch, tmp_path):
    found: dict[str, Plan] = {}
    monkeypatch.setattr(
        "flexedit.training.plan.plans", lambda *words: found.update(plans(*words)) or found
    )
    assert run("train", "flexedit-7b", "--dry-run", "--out", tmp_path / "x") == 0
    joint = found["joint"]
    lora, rows = 32 * 2 * 8 * (4096 + 4096), 32 * 2 * 4096
    assert joint.sizes["vllm"].trained == lora + rows
    assert joint.sizes["vllm"].parameters == pytest.approx(7.063e9 + lora + rows, rel=1e-3)
    assert joint.sizes["unet"].trained == 859_520_964 + 320 * 4 * 9  # SD 1.5's, and the scene's
    assert found["align"].sizes["unet"].trained == 0 < found["align"].sizes["bridge"].trained
    shapes = joint.shapes(rows=2)
    assert shapes["hidden_states"] == (2, 32, 4096) and shapes["e"] == (2, 77, 768)
    assert shapes["prediction"] == (2, 4, 32, 32)
    whole = joint.memory("ddp", 8)
    assert joint.memory("fsdp", 8) < whole / 2 < joint.memory("deepspeed", 8) < whole
    averages = 2 + 1  # the optimizer's two, and the weights'
    assert joint.checkpoint_bytes == joint.trained * 4 * (1 + averages)


def test_a_dry_run_knows_what_fsdp_gathers(tmp_path):
    """Of the model that trains: what is in no layer, and the largest layer with those around it."""
    folder = ModelFolder(make_tiny_folder(tmp_path / "model", vllm={"lora": {"rank": 3}}))
    losses = Losses("joint", ("unet", "bridge", "adapter", "vllm"))
    train = TrainConfig(steps=1, batch_size=8, lr=1e-3, mixed_precision="bf16")
    plan = plans(folder, {"joint": StageRecipe(train, losses)})["joint"]

    model = TrainingModel(folder, losses, 0, vllm_dtype=torch.bfloat16)
    layers, sizes = layer_classes(model, model.in_layers), Counter[tuple[str, ...]]()
    for name, weight in model.named_parameters():
        if not name.startswith("helper."):
            around = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
            inside = [it for it in around if type(model.get_submodule(it)).__name__ in layers]
            times = 2 if weight.requires_grad else 1  # its gradient, too
            sizes[tuple(inside)] += times * weight.numel() * weight.itemsize
    at_once = [sum(sizes[inside[:n]] for n in range(len(inside) + 1)) for inside in sizes]
    assert plan.gathered == pytest.approx(max(at_once), rel=1e-3)  # but for edit tokens' old rows
    assert max(at_once) > sizes[()] > 0.5 * max(at_once)
    learning = plan.trained * (4 + 2 * 4)  # gradients and Adam's averages
    frozen = sum(size.frozen for size in plan.sizes.values())
    weights = frozen + 4 * plan.trained
    assert plan.memory("fsdp", 8) == (weights + learning) // 8 + plan.gathered


def test_the_hours_are_those_of_the_run_that_is_there(tmp_path, capsys):
    stage = tmp_path / "instructpix2pix" / "joint"
    stage.mkdir(parents=True)
    (stage / "log.jsonl").write_text(json.dumps({"step": 10, "seconds": 100.0}) + "\n")
    words = ("train", "instructpix2pix", "--dry-run", "--out", stage.parent)
    assert run(*words) == 0
    said = capsys.readouterr().err
    assert "\n  27.8 hours, at " in said  # 10,000 steps of 10 s
    assert "\nhours: 27.8 in all\n" in said


# Training, small


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A tiny pipeline, CLIP and LLaVA, and ``data``"""
    folder = tmp_path_factory.mktemp("parts")
    make_tiny_pipeline(folder)
    make_data(folder / "data")
    return folder


def small(parts: Path, name: str) -> list[str]:
    """Words that make a recipe tiny."""
    recipe = system_recipe(name)
    settings = {f"start.{part}": parts / part for part in ("pipeline", "clip")}
    settings["size"] = 64
    if recipe.start.vllm:
        settings["start.vllm"] = parts / "vllm"
    for stage, it in recipe.stages.items():
        of = CAPTIONS if it.losses.stage == "align" else MIXED
        settings[f"data.{stage}"] = json.dumps(of)
        train = {"steps": 2, "batch_size": 4, "accumulate": 1, "warmup": 1, "log_every": 1}
        train |= {"mixed_precision": "no", "validate_every": 2}
        settings |= {f"stages.{stage}.train.{key}": value for key, value in train.items()}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


class Received(Future):
    """What a hub has got by an upload, which is over at once"""

    def __init__(self, **named: Any) -> None:
        super().__init__()
        self.named = named
        folder, patterns = named["folder_path"], named.get("allow_patterns", ["*"])
        files = [it.relative_to(folder).as_posix() for it in folder.rglob("*") if it.is_file()]
        self.files = {it for it in files if any(fnmatch(it, pattern) for pattern in patterns)}
        self.set_result(None)


@pytest.fixture
def hub(monkeypatch) -> list[Received]:
    """A hub that takes everything"""
    received: list[Received] = []

    def upload(_: HfApi, **named: Any) -> Received:
        received.append(Received(**named))
        return received[-1]

    monkeypatch.setattr(HfApi, "whoami", lambda _: {"auth": {"accessToken": {"role": "write"}}})
    address = "https://huggingface.co/{}"
    monkeypatch.setattr(HfApi, "create_repo", lambda _, repo, **__: RepoUrl(address.format(repo)))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    return received


def test_a_whole_recipe_trains_goes_on_and_is_published(parts, tmp_path, monkeypatch, hub, capsys):
    out, words = tmp_path / "run", ["--data", parts / "data", *small(parts, "flexedit-7b")]
    common = ("train", "flexedit-7b", *words, "--out", out)
    monkeypatch.setattr(sys, "argv", ["flexedit", *map(str, common)])
    assert run(*common, "--minutes", 0) == 0
    assert (tmp_path / "run-start" / "flexedit.json").is_file()
    more = ("--set", "stages.joint.train.lr=2e-5", "--set", "stages.joint.train.seed=5")
    assert run(*common, *more, "--push-to-hub", "lab/mine", "--hub-every", "checkpoint") == 0
    assert "hub: https://huggingface.co/lab/mine" in capsys.readouterr().out
    rows = curve(out / "joint")
    assert [row["step"] for row in rows] == [1, 2] and set(curve(out / "align")[0]) > {"align"}
    assert any(name.startswith("diffusion/") for row in rows for name in row)
    kept = yaml.safe_load((out / RECIPE).read_text())
    assert kept["joint"]["train"]["lr"] == 2e-5 and kept["align"]["train"]["lr"] == 2e-4
    assert kept["joint"]["train"]["seed"] == 5 and kept["align"]["train"]["seed"] == 10_000
    assert (out / "pictures" / "000002.png").is_file()
    assert ModelFolder(out / "model").config.vllm is not None
    *checkpoints, model = hub
    places = [(it.named["path_in_repo"], it.named["allow_patterns"]) for it in checkpoints]
    assert places == [(f"checkpoints/{it}", ["checkpoint-2/*"]) for it in ("align", "joint")]
    assert all("checkpoint-2/facts.json" in it.files for it in checkpoints)
    assert "flexedit.safetensors" in model.files and model.named["folder_path"] == out / "model"
    card = (out / "model" / "README.md").read_text()
    said = (
        "| joint | 2 |",
        "learned from: refcoco",
        str(parts / "vllm"),
        "flexedit train flexedit",
    )
    assert all(text in card for text in said)
    assert run(*common, "--set", f"start.clip={parts / 'pipeline'}") == 2
    assert "was made of other parts" in capsys.readouterr().err


class ConnectError(Exception):
    """Of the connection, and none of the hub's"""


def fails(message: str) -> Any:
    def failing(*_: object, **__: object) -> None:
        raise ConnectError(message)

    return failing


@pytest.mark.parametrize(
    ("name", "becomes", "complaint"),
    [
        ("create_repo", fails("no route"), "lab/mine cannot be written on the hub (no route). Log"),
        ("whoami", fails("log in"), "(log in). Log in by hf auth login"),
        (
            "whoami",
            lambda _: {"auth": {"accessToken": {"role": "read"}}},
            "(the token may only read)",
        ),
    ],
)
def test_a_hub_that_takes_nothing_is_said_before_training(
    parts, tmp_path, monkeypatch, hub, capsys, name, becomes, complaint
):
    monkeypatch.setattr(HfApi, name, becomes)
    words = ["--data", parts / "data", *small(parts, "instructpix2pix"), "--out", tmp_path / "run"]
    assert run("train", "instructpix2pix", *words, "--push-to-hub", "lab/mine") == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not hub


def test_when_to_send_asks_where_to(parts, tmp_path, capsys):
    words = ["--data", parts / "data", *small(parts, "instructpix2pix"), "--out", tmp_path / "run"]
    assert run("train", "instructpix2pix", *words, "--hub-every", "checkpoint") == 2
    assert "Say by --push-to-hub where to" in capsys.readouterr().err


def test_a_hub_that_went_away_is_said_and_where_the_model_is(tmp_path, monkeypatch, hub):
    asked = Hub("lab/mine")
    monkeypatch.setattr(HfApi, "upload_folder", fails("no route"))
    with pytest.raises(FlexEditError, match=r"hub \(no route\). The model is in .*; hf upload lab"):
        asked.push(tmp_path)


def test_a_checkpoint_stays_while_it_is_sent_and_one_that_fails_stops_nothing(
    tmp_path, monkeypatch, hub, caplog
):
    sent: list[Future] = []
    monkeypatch.setattr(HfApi, "upload_folder", lambda _, **__: sent.append(Future()) or sent[-1])
    asked, paths = Hub("lab/mine"), [tmp_path / f"checkpoint-{step}" for step in range(1, 4)]
    for path in paths:
        path.mkdir()
    asked.send(paths[0])
    asked.send(paths[1])  # left out
    checkpoint.prune(tmp_path, 1, asked.reads)
    assert checkpoint.checkpoints(tmp_path) == [paths[0], paths[2]] and len(sent) == 1
    sent[0].set_exception(ConnectError("no route"))
    asked.send(paths[2])
    assert "checkpoint-1 could not be sent to the hub: no route" in caplog.text
    assert asked.reads == paths[2] and len(sent) == 2
    sent[1].set_result(None)
    asked.finish()
    assert asked.reads is None


@pytest.mark.parametrize("name", ["mgie-7b", "instructpix2pix"])
def test_other_systems_recipes_train(parts, tmp_path, name):
    words = ["--data", parts / "data", *small(parts, name), "--out", tmp_path / "run"]
    assert run("train", name, *words) == 0
    assert (tmp_path / "run" / "model" / "flexedit.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "Name their folder by --data"),
        (("--data", ".", "--set", "size=big"), "size is 'big'; expected int"),
        (("--data", ".", "--set", "stages.joint.train.speed=1"), "unknown setting speed"),
        (("--data", ".", "--set", "fast"), "'fast' sets nothing"),
        (
            ("--data", ".", "--model", PRETRAINED / EMBEDDED),
            "would train it at 256. Add --set size=64",
        ),
        (("--dry-run", "--set", "start.clip=nowhere"), "nowhere is neither a folder nor one of"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words, complaint, tmp_path, capsys):
    assert run("train", "flexedit-7b", *words, "--out", tmp_path / "run") == 2
    assert complaint in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())
