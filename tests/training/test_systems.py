"""Recipes of whole systems: dry runs at full size, and training at mini size."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi

from flexedit.cli import main
from flexedit.data.readers import DATA_SETS
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder
from flexedit.training.card import push
from flexedit.training.monitor import curve
from flexedit.training.own import RECIPE
from flexedit.training.plan import Plan, plans
from flexedit.training.recipe import SYSTEM_RECIPES, system_recipe
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
    assert joint.memory("fsdp", 8) < whole / 5 < joint.memory("deepspeed", 8) < whole
    averages = 2 + 1  # the optimizer's two, and the weights'
    assert joint.checkpoint_bytes == joint.trained * 4 * (1 + averages)


def test_the_hours_are_those_of_the_run_that_is_there(tmp_path, capsys):
    stage = tmp_path / "instructpix2pix" / "joint"
    stage.mkdir(parents=True)
    (stage / "log.jsonl").write_text(json.dumps({"step": 10, "seconds": 100.0}) + "\n")
    words = ("train", "instructpix2pix", "--dry-run", "--out", stage.parent)
    assert run(*words) == 0
    assert "\n  27.8 hours\n" in capsys.readouterr().err  # 10,000 steps of 10 s


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


def test_a_whole_recipe_trains_goes_on_and_is_published(parts, tmp_path, monkeypatch, capsys):
    sent = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda _, repo, **__: f"https://hub/{repo}")
    monkeypatch.setattr(HfApi, "upload_folder", lambda _, **named: sent.update(named))
    out, words = tmp_path / "run", ["--data", parts / "data", *small(parts, "flexedit-7b")]
    common = ("train", "flexedit-7b", *words, "--out", out)
    monkeypatch.setattr(sys, "argv", ["flexedit", *map(str, common)])
    assert run(*common, "--minutes", 0) == 0
    assert (tmp_path / "run-start" / "flexedit.json").is_file()
    assert run(*common, "--set", "stages.joint.train.lr=2e-5", "--push-to-hub", "lab/mine") == 0
    assert "hub: https://hub/lab/mine" in capsys.readouterr().out
    rows = curve(out / "joint")
    assert [row["step"] for row in rows] == [1, 2] and set(curve(out / "align")[0]) > {"align"}
    assert any(name.startswith("diffusion/") for row in rows for name in row)
    kept = yaml.safe_load((out / RECIPE).read_text())
    assert kept["joint"]["train"]["lr"] == 2e-5 and kept["align"]["train"]["lr"] == 2e-4
    assert (out / "pictures" / "000002.png").is_file()
    assert ModelFolder(out / "model").config.vllm is not None
    card = (sent["folder_path"] / "README.md").read_text()
    said = (
        "| joint | 2 |",
        "learned from: refcoco",
        str(parts / "vllm"),
        "flexedit train flexedit",
    )
    assert all(text in card for text in said)
    assert run(*common, "--set", f"start.clip={parts / 'pipeline'}") == 2
    assert "was made of other parts" in capsys.readouterr().err


def test_a_hub_that_is_away_is_said_and_where_the_model_is(tmp_path, monkeypatch):
    """By an error of the connection, which is none of the hub's."""

    class ConnectError(Exception): ...

    def away(*_: object, **__: object) -> None:
        raise ConnectError("no route")

    monkeypatch.setattr(HfApi, "create_repo", away)
    (tmp_path / "model").mkdir()
    with pytest.raises(FlexEditError, match=r"hub \(no route\). The model is in"):
        push(tmp_path, "lab/mine", "a card")


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
        (("--dry-run", "--set", "start.clip=nowhere"), "nowhere is neither a folder nor one of"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words, complaint, tmp_path, capsys):
    assert run("train", "flexedit-7b", *words, "--out", tmp_path / "run") == 2
    assert complaint in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())
