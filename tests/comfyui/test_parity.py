"""The same weights, noise and conditioning give the same latent in diffusers and in ComfyUI."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexedit.model_folder import EMBEDDED, WEIGHTS_FILE, ModelFolder, save_model_folder
from flexedit.model_folder.folder import unet_layers
from flexedit.systems import PRESETS, preset
from flexedit.training.pretrain.shape import system_config
from tests.tiny import (
    TINY,
    embedded,
    make_tiny_folder,
    make_tiny_system,
    make_tiny_xl,
)
from tools.comfyui import inside
from tools.sd15 import make_sd15_folder

SCRIPT = Path(__file__).with_name("parity.py")
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["random weights", EMBEDDED])
def compared(request, tiny) -> dict:
    trained = request.param == EMBEDDED
    return inside.run(SCRIPT, "compare", embedded() if trained else tiny)


def test_all_branches_agree_after_10_and_20_steps_with_and_without_subject(compared):
    assert len(compared["errors"]) == 10
    assert max(compared["errors"].values()) <= TOLERANCE


def test_each_branch_and_the_subject_can_be_felt(compared):
    assert min(compared["felt"].values()) > 0.01


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "flexedit"])
def test_every_system_agrees_in_all_branches(name, tmp_path):
    folder = make_tiny_system(name, tmp_path / name)
    compared = inside.run(SCRIPT, "compare", folder.path)
    assert max(compared["errors"].values()) <= TOLERANCE
    assert max(compared["felt"].values()) > 0.01


def test_a_unet_of_sdxls_kind_agrees_in_all_branches_and_all_its_layers(tmp_path):
    folder = make_tiny_xl(tmp_path / "xl")
    compared = inside.run(SCRIPT, "compare", folder.path)
    assert max(compared["errors"].values()) <= TOLERANCE
    assert min(compared["felt"].values()) > 0.01
    assert inside.run(SCRIPT, "hits", folder.path) == {"0": 0, "1": 18}
    assert len(unet_layers(folder.config)) == 18


def test_every_prediction_type_schedule_and_ablation_agrees(tmp_path):
    unet = system_config(TINY).unet
    variants = {
        "epsilon": {"diffusion": {"prediction_type": "epsilon"}},
        "v_prediction": {"diffusion": {"prediction_type": "v_prediction"}},
        "linear": {"diffusion": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}},
        "share_kv": {"adapter": {"share_kv": True}},
        "concatenated": {"adapter": {"decoupled": False}},
        "literal": {"adapter": {"residual": False}},
        "without_ca": {"adapter": {"cross_attention": False}},
        "without_subject": {"adapter": {"subject": False}},
        "wide": {
            "unet": unet
            | {
                "block_out_channels": [32, 64, 96],
                "layers_per_block": 2,
                "transformer_layers_per_block": [1, 2, 1],
                "attention_head_dim": [1, 2, 3],
                "use_linear_projection": True,
                "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            }
        },
    }
    folders = [make_tiny_folder(tmp_path / name, **changes) for name, changes in variants.items()]
    errors = inside.run(SCRIPT, "compare_once", *folders)
    assert set(errors) == set(variants)
    assert max(errors.values()) <= TOLERANCE, errors


def test_parts_whose_layers_wait_for_their_file_are_read_too(tiny):
    errors = inside.run(SCRIPT, "wait_for_files", tiny)
    if errors is None:
        pytest.skip("this ComfyUI has no dynamic VRAM")
    assert errors.keys() == {"unet", "clip_vision", "vae"}
    assert max(errors.values()) <= TOLERANCE


def test_weights_that_do_not_stay_on_the_device_give_the_same_bits(tiny):
    found = inside.run(SCRIPT, "without_room", tiny)
    stayed, none = found["stayed"]
    assert found["same"] and stayed > none == 0


def test_weights_in_half_precision_that_are_cast_as_they_are_used_agree(tmp_path):
    folder = make_tiny_folder(tmp_path / "half")
    tensors = load_file(folder / WEIGHTS_FILE)
    save_model_folder(folder, ModelFolder(folder).config, tensors, torch.float16)
    assert inside.run(SCRIPT, "compare_once", folder)["half"] <= TOLERANCE


@pytest.mark.slow
def test_a_unet_of_sd15s_shape_agrees_in_all_its_16_cross_attention_layers_and_in_bims_residual(
    tmp_path,
):
    bim = preset("smartedit", {"name": "bim", "sources": {}}).to_dict()["interaction"]
    folder = make_sd15_folder(tmp_path / "sd15", interaction=bim)
    figures = inside.run(SCRIPT, "full_size", folder, threads=2, timeout=1800)
    assert figures["hits"] == {"0": 0, "1": 16}
    assert figures["residual_felt"] > 0.01
    assert max(figures["errors"]) <= TOLERANCE
    assert len(figures["errors"]) == 4
    assert figures["opened_mb"] < 300  # of the 3280 that the weights take
