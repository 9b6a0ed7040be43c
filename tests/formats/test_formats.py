"""What FlexEdit 0.1.0 wrote is read as before. README.md says how each example was made."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flexedit.cli import main
from flexedit.model_folder import ModelFolder
from studies.ablation.__main__ import main as ablation
from tests.tiny import embedded
from tests.training.kept import last_checkpoint

HERE = Path(__file__).parent
MODEL, EDITS, PICTURES = HERE / "model", HERE / "edits", HERE / "pictures"
EXPECTED = json.loads((HERE / "expected.json").read_text())
LACKS = {  # what begins so is in the model's weights, but not in those of these systems
    "no-ca": ("mea.scene.",),
    "no-dca": ("mea.subject.",),
    "shared-kv": ("mea.subject.",),
    "instructpix2pix": ("lora.", "mea.scene.", "mea.subject", "qformer.", "tokens."),
}
STAGES = ("parts", "vae", "clip", "vision", "vllm", "base", "align", "joint", "decoder")
CHECKPOINTS = json.loads(gzip.decompress((HERE / "mini-training/checkpoints.json.gz").read_bytes()))


def run(*words: object) -> int:
    return main([str(word) for word in words])


def answer(capsys, *words: object) -> dict:
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def copied(name: str, folder: Path) -> Path:
    return shutil.copytree(HERE / name, folder / name)


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def alike(one: Path, other: Path) -> bool:
    """Two pictures, but for what other processors and versions of torch round otherwise."""
    difference = np.asarray(Image.open(one)).astype(int) - np.asarray(Image.open(other))
    return bool(np.abs(difference).max() <= 2)


def model(name: str, folder: Path) -> Path:
    """A model folder: the one that is kept, or its parts with the config of another system."""
    if name == "model":
        return MODEL
    other = copied("model", folder)
    shutil.copy(HERE / "configs" / f"{name}.json", other / "flexedit.json")
    weights, lacks = other / "flexedit.safetensors", LACKS.get(name, ())
    tensors = load_file(weights)
    save_file({key: tensors[key] for key in tensors if not key.startswith(lacks)}, weights)
    return other


@pytest.mark.parametrize("name", EXPECTED["info"])
def test_a_model_folder_says_what_it_holds(name, tmp_path, capsys):
    info = answer(capsys, "info", "--model", model(name, tmp_path))
    assert EXPECTED["info"][name].items() <= info.items()


@pytest.mark.parametrize("name", [file.stem for file in sorted(PICTURES.glob("*.png"))])
def test_a_model_folder_edits(name, tmp_path):
    words = ["--scene", EDITS / "0000000_scene.png", "--mask", EDITS / "0000000_mask.png"]
    if name != "instructpix2pix":
        words += ["--subject", EDITS / "0000001_scene.png"]
    words += ["--instruction", "make it blue", "--seed", 3, "--device", "cpu"]
    edited = tmp_path / "edited.png"
    assert run("edit", *words, "--model", model(name, tmp_path), "--out", edited) == 0
    assert alike(edited, PICTURES / f"{name}.png")


def test_a_training_on_ones_own_edits_goes_on_where_it_was(tmp_path):
    folder = copied("own-training", tmp_path)
    before = rows(folder / "align" / "log.jsonl")
    words = ["--data", EDITS, "--model", MODEL, "--stages", "align,joint", "--precision", "no"]
    words += ["--steps", 4, "--batch", 4, "--lr", 1]
    assert run("train", "own", *words, "--out", folder) == 0
    after = {stage: rows(folder / stage / "log.jsonl") for stage in ("align", "joint")}
    assert [row["step"] for row in before] == [1, 2] and after["align"][:2] == before
    for stage, last in EXPECTED["training"].items():
        assert {key: after[stage][-1][key] for key in last} == pytest.approx(last, rel=1e-3)
    assert len(ModelFolder(folder / "model").keys) == len(ModelFolder(MODEL).keys)


@pytest.fixture
def mini_training(tmp_path) -> Path:
    """All that a training of the mini has before its stages' checkpoints"""
    folder, start = copied("mini-training", tmp_path), embedded()
    for part in ("vllm", "clip", "vae"):
        shutil.copytree(start / part, folder / "model" / part)
    tensors = ModelFolder(start).all_tensors()
    trained = {
        "base": ("unet.", "mea.", "null."),
        "align": ("qformer.", "lora.", "tokens."),
        "joint": ("",),
    }
    for stage in STAGES:
        (folder / stage).mkdir()
        (folder / stage / "done").touch()
        if stage in trained:
            own = {key: value for key, value in tensors.items() if key.startswith(trained[stage])}
            save_file(own, folder / stage / "flexedit.safetensors")
    return folder


def checkpoint(stage: str) -> dict:
    """As the trainer wrote it after three steps, but every tensor has one value throughout."""
    kept = CHECKPOINTS[stage]
    trained = {
        name: torch.full(shape, number / 1000)
        for number, (name, shape) in enumerate(kept["trained"].items())
    }
    averages = [tensor + 1 for tensor in trained.values()]
    return {
        "step": 3,
        "kept": kept["kept"] | {"betas": tuple(kept["kept"]["betas"])},
        "trained": trained,
        "optimizer": {"state": {}, "param_groups": kept["groups"]},
        "ema": kept["ema"] and kept["ema"] | {"shadow_params": averages},
        "scaler": None,
    }


def values(state: dict) -> list[tuple[float, list[int]]]:
    """What a checkpoint has, whatever its parts are called."""
    averages = state["ema"]["shadow_params"] if state["ema"] else []
    tensors = [*state["trained"].values(), *averages]
    return sorted((float(it.flatten()[0]), list(it.shape)) for it in tensors)


@pytest.mark.parametrize("stage", CHECKPOINTS)
def test_a_training_of_the_mini_takes_up_the_checkpoint_of_a_stage(stage, mini_training):
    file = mini_training / stage / "checkpoint.pt"
    (mini_training / stage / "done").unlink()
    torch.save(checkpoint(stage), file)
    logged = [{"step": step, "seconds": float(step)} for step in (1, 2, 3, 4)]
    log = mini_training / stage / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in logged))
    words = ["--out", mini_training, "--stages", stage, "--minutes", 0]
    assert run("train", "mini", *words) == 0
    state = last_checkpoint(mini_training / stage)
    averages = {"shadow_params": list(state["averages"].values())}
    assert state["step"] == 3 and not file.exists()
    assert values(state | {"ema": averages}) == values(checkpoint(stage))
    assert rows(log) == logged[:3]  # the fourth step was after the checkpoint
    assert not (mini_training / stage / "done").exists()


def test_a_training_of_the_mini_is_exported(mini_training):
    assert run("train", "mini", "--out", mini_training, "--stages", "export") == 0
    start, exported = ModelFolder(embedded()), ModelFolder(mini_training / "flexedit-mini")
    old, new = start.all_tensors(), exported.all_tensors()
    assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old)


def test_a_training_of_the_mini_knows_its_seed(mini_training, capsys):
    assert run("train", "mini", "--out", mini_training, "--seed", 5) == 2
    assert "seed 0" in capsys.readouterr().err


def test_a_batch_goes_on_where_it_was(tmp_path, capsys):
    out = copied("batch", tmp_path) / "results"
    words = ["--list", HERE / "batch" / "list.jsonl", "--model", MODEL, "--device", "cpu"]
    words += ["--steps", 1, "--out", out]
    ledger = (out / "results.jsonl").read_text()
    counts = answer(capsys, "batch", *words)
    assert (counts["done"], counts["failed"], counts["before"]) == (0, 0, 3)
    assert (out / "results.jsonl").read_text() == ledger
    (out / "inserted.png").unlink()
    assert answer(capsys, "batch", *words)["done"] == 1
    assert alike(out / "inserted.png", HERE / "batch" / "results" / "inserted.png")


def test_a_benchmark_its_runs_and_their_report_are_read(tmp_path, capsys):
    results = copied("results", tmp_path)
    words = ["--system", "scene", "--system", f"flexedit:{MODEL},name=micro", "--device", "cpu"]
    assert run("bench", "run", HERE / "benchmark", "--out", results, *words, "--form", "free") == 0
    for name in ("scene", "micro"):  # nothing was run again
        kept = (HERE / "results" / name / "results.jsonl").read_text()
        assert (results / name / "results.jsonl").read_text() == kept
    old, new = (
        json.loads((folder / "report.json").read_text())["rows"]
        for folder in (HERE / "results", results)
    )
    assert len(new) == len(old) == 6
    for before, after in zip(old, new, strict=True):
        for key, value in before.items():
            if isinstance(value, float):
                assert after[key] == pytest.approx(value, rel=1e-3)
            elif value is not None:  # what was not measured then may be now
                assert after[key] == value
    capsys.readouterr()
    assert run("bench", "compare", HERE / "results", results) == 0
    assert "3 in both" in capsys.readouterr().out


def test_logs_of_the_ablation_are_read(tmp_path, capsys):
    logs, packed = HERE / "ablation", tmp_path / "logs.parquet"
    assert ablation(["pack", "--logs", str(logs), "--out", str(packed)]) == 0
    for folder in (logs, packed):
        capsys.readouterr()
        assert ablation(["tables", "--logs", str(folder)]) == 0
        printed = capsys.readouterr().out
        # PSNR with and without cross-attention, what that lacks, and the IoU of what it paints
        for number in ("9.92", "7.89", "−2.03", "−90.43", "0.066"):
            assert f"| {number} |" in printed


def test_a_drawing_is_read(tmp_path):
    drawn = tmp_path / "drawn.png"
    words = ["--strokes", HERE / "strokes.json", "--size", 60, 45, "--out", drawn]
    assert run("mask", *words) == 0
    assert alike(drawn, HERE / "strokes.png")
