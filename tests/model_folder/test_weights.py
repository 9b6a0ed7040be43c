"""Names of tensors that every version of transformers reads, and reading under them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder, load_image_encoder, load_vllm, weights
from flexedit.model_folder.folder import PRETRAINED
from flexedit.model_folder.weights import is_portable, portable_name, read_weights
from flexedit.training.run import export

CLIP_LLAVA = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}
PIXTRAL_LLAVA = {"model_type": "llava", "vision_config": {"model_type": "pixtral"}}
CLIP = {"model_type": "clip", "vision_config": {"model_type": "clip_vision_model"}}


@pytest.mark.parametrize(
    ("config", "name", "portable"),
    [
        (CLIP_LLAVA, "vision_tower.encoder.x", "vision_tower.vision_model.encoder.x"),
        (CLIP_LLAVA, "model.vision_tower.vision_model.head.x", "vision_tower.vision_model.head.x"),
        (CLIP_LLAVA, "model.language_model.model.norm.weight", "language_model.model.norm.weight"),
        (PIXTRAL_LLAVA, "model.language_model.model.norm.x", "language_model.model.norm.x"),
        ({"model_type": "siglip_vision_model"}, "encoder.x", "vision_model.encoder.x"),
    ],
)
def test_the_level_that_went_is_put_back(config, name, portable):
    assert portable_name(name, config) == portable
    assert portable_name(portable, config) == portable


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (CLIP_LLAVA, "language_model.lm_head.weight"),
        (CLIP_LLAVA, "model.language_model.layers.0.x"),
        (CLIP_LLAVA, "multi_modal_projector.linear_1.weight"),
        (PIXTRAL_LLAVA, "vision_tower.ln_pre.weight"),
        (CLIP, "vision_model.encoder.x"),
        (CLIP, "logit_scale"),
        ({"model_type": "sam"}, "vision_encoder.x"),
    ],
)
def test_all_other_names_stay(config, name):
    assert portable_name(name, config) == name


@pytest.mark.parametrize("part", ["vllm", "clip"])
def test_the_embedded_model_is_portable(part):
    assert is_portable(PRETRAINED / "flexedit-mini" / part)


def under_both_names(source, target):
    """Copies a part's folder, once under portable and once under newer names → both copies."""
    tensors, level = read_weights(source), ".vision_model."
    portable, newer = target / "portable", target / "newer"
    for folder, replacement in ((portable, level), (newer, ".")):
        folder.mkdir()
        for file in source.glob("*.json"):
            (folder / file.name).write_bytes(file.read_bytes())
        named = {f".{k}".replace(level, replacement)[1:]: v for k, v in tensors.items()}
        save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    assert is_portable(portable)
    assert not is_portable(newer)
    return portable, newer


def under_names_of_no_version(folder):
    """Stands in for names that are newer than the transformers here."""
    for file in folder.glob("*.safetensors"):
        tensors = {
            k.replace("vision_tower", "vision_tower_"): v for k, v in load_file(file).items()
        }
        save_file({k: v.clone() for k, v in tensors.items()}, file, metadata={"format": "pt"})


def test_a_vllm_is_the_same_under_newer_names(tiny, tmp_path):
    one, other = map(load_vllm, under_both_names(tiny / "vllm", tmp_path))
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_names_that_this_transformers_does_not_know_are_read_with_the_folders_settings(
    tiny, tmp_path, monkeypatch
):
    folder = tmp_path / "vllm"
    shutil.copytree(tiny / "vllm", folder)
    under_names_of_no_version(folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [2, 7]}))
    with pytest.raises(FlexEditError, match="lacks weights"):
        load_vllm(folder)
    monkeypatch.setattr(
        weights, "portable_name", lambda name, _: name.replace("vision_tower_", "vision_tower")
    )
    vllm, stock = load_vllm(folder), load_vllm(tiny / "vllm")
    assert vllm.model.generation_config.eos_token_id == [2, 7]
    assert all(map(torch.equal, vllm.state_dict().values(), stock.state_dict().values()))


def test_a_vision_tower_alone_is_the_same_under_newer_names(tiny, tmp_path):
    from transformers import CLIPVisionModelWithProjection

    tower = tmp_path / "tower"
    shutil.copytree(tiny / "clip", tower)
    CLIPVisionModelWithProjection.from_pretrained(tiny / "clip").save_pretrained(tower)
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    folders = [*under_both_names(tower, tmp_path), tiny / "clip"]
    old, new, whole = (load_image_encoder(folder)(pictures).projected for folder in folders)
    assert torch.equal(old, new) and torch.equal(old, whole)


def test_what_is_written_is_portable(tiny, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    _, newer = under_both_names(tiny / "vllm", tmp_path)
    shutil.copy(newer / "model.safetensors", model / "vllm")
    trained = load_file(tiny / "flexedit.safetensors")
    folder = ModelFolder(model, ModelFolder(tiny).config)
    export(folder, tmp_path / "out", trained, halves_parts=True)
    assert is_portable(tmp_path / "out" / "vllm")
