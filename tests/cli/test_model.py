import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.shell import run


def test_a_model_folder_is_described_without_loading_it(tiny, tmp_path, capsys):
    folder = shutil.copytree(tiny, tmp_path / "chair")
    (folder / "vllm" / "model.safetensors").unlink()
    assert run("info", "--model", folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["system"] == "flexedit-tiny" and report["edit_tokens"] == 32
    assert report["context"] == "24 x 32" and report["trained_tensors"] > 100
    (missing,) = report["missing"]
    assert missing.startswith(f"{folder}/vllm has no .safetensors weights")


def test_a_part_that_cannot_be_built_is_named_among_what_is_missing(tiny, tmp_path, capsys):
    folder = shutil.copytree(tiny, tmp_path / "chair")
    settings = json.loads((folder / "vae" / "config.json").read_text()) | {"norm_num_groups": 0}
    (folder / "vae" / "config.json").write_text(json.dumps(settings))
    assert run("info", folder, "--json") == 0
    (missing,) = json.loads(capsys.readouterr().out)["missing"]
    assert missing.startswith(f"{folder}/vae cannot be loaded")


def test_sizes_licences_and_what_is_missing_are_said(tiny, tmp_path, capsys):
    folder = shutil.copytree(tiny, tmp_path / "chair")
    settings = json.loads((folder / "flexedit.json").read_text())
    settings["licences"] = {"MGIE": "CC BY-NC 4.0"}
    (folder / "flexedit.json").write_text(json.dumps(settings))
    (folder / "licences" / "llava").mkdir(parents=True)
    (folder / "licences" / "llava" / "LICENSE").write_text("Llama's")
    assert run("info", folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["missing"] == []
    assert report["licences"] == {"MGIE": "CC BY-NC 4.0", "licences/llava/LICENSE": "the text"}
    assert report["parts"] == {"vllm": "vllm", "clip": "clip", "vae": "vae"}
    weights = folder / "flexedit.safetensors"
    assert report["disk_mb"]["flexedit.safetensors"] == round(weights.stat().st_size / 1e6, 1)
    half, full = report["memory_mb"]["fp16"], report["memory_mb"]["fp32"]
    assert list(full) == ["vllm", "bridge", "clip", "adapter", "unet", "vae", "all"]
    least = report["memory_mb"]["vllm_4_bits"]
    assert least["vllm"] <= half["vllm"] and least["unet"] == half["unet"]
    assert half["unet"] < full["unet"] and half["vae"] == full["vae"]  # which stays in full
    assert full["all"] == pytest.approx(sum(full.values()) / 2, abs=0.1)

    tensors = load_file(weights)
    del tensors["unet.conv_out.bias"], tensors["null.edit"]
    save_file(tensors, weights)
    assert run("info", folder) == 0
    said = capsys.readouterr().out
    assert "missing: chair/flexedit.safetensors lacks null.edit, unet.conv_out.bias." in said
    assert f"memory_mb.fp32.all: {full['all']}" in said
    weights.unlink()
    assert run("info", "--model", folder) == 0
    assert "chair lacks flexedit.safetensors" in capsys.readouterr().out


def test_a_model_of_which_no_licences_are_known_says_so(tiny, capsys):
    assert run("info", tiny) == 0
    said = capsys.readouterr().out
    assert "licences: nothing\n" in said and "missing: nothing\n" in said
