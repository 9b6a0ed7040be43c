"""FlexEdit's guider and attention among ComfyUI's samplers, LoRAs, patches and masks."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexedit import cli
from flexedit.data.edits import Edits
from flexedit.data.world import World, write
from flexedit.model_folder import EMBEDDED, ModelFolder
from flexedit.training.own import OwnTraining, own_recipe
from tests.comfyui.graph import Graph, free_shape, load, pictures
from tests.tiny import TINY, embedded, make_tiny_folder
from tools.comfyui import inside

TOLERANCE = 1e-4
FELT = 0.01


@pytest.fixture(scope="module")
def behaviour(tiny) -> dict:
    return inside.run(Path(__file__).with_name("behaviour.py"), "everything", tiny)


def test_every_core_sampler_gives_finite_latents(behaviour):
    assert len(behaviour["samplers"]) > 20
    assert all(behaviour["samplers"].values()), behaviour["samplers"]


def test_core_dual_cfg_guider_gives_the_same_latent(behaviour):
    assert behaviour["core_guider"]["error"] <= TOLERANCE


def test_a_second_run_loads_nothing(behaviour):
    assert behaviour["second_run"] == {
        "first": ["Requested to load Conditioner", "Requested to load FlexEditModel"],
        "second": [],
    }


def test_a_cancelled_run_stops_at_once_and_leaves_no_trace(behaviour):
    assert behaviour["cancelled"] == {"steps": 2, "error": 0.0}


def test_a_lora_changes_the_unet_as_it_would_diffusers_and_can_be_taken_off(behaviour):
    assert behaviour["lora"]["error"] <= TOLERANCE
    assert behaviour["lora"]["felt"] > FELT
    assert behaviour["lora"]["undone"] == 0


def test_another_packs_attention_patch_is_kept_under_the_subject(behaviour):
    figures = behaviour["other_attention"]
    assert figures["all layers"]
    assert max(figures["same"], figures["same by layer"]) <= TOLERANCE
    assert figures["shifted"] > FELT
    assert min(value for name, value in figures.items() if name.endswith("felt")) > FELT


def test_rows_of_a_batch_are_edited_each_with_its_own_subject_and_strength(behaviour):
    figures = behaviour["batches"]
    assert max(figures["library"], figures["row without subject"]) <= TOLERANCE
    assert figures["row with subject felt"] > FELT


def test_a_batch_that_is_sampled_row_by_row_gives_the_same(behaviour):
    assert behaviour["batches"]["row by row"] <= TOLERANCE


def test_a_larger_latent_batch_repeats_scenes_and_edits_in_turn(behaviour):
    assert behaviour["batches"]["repeated"] <= TOLERANCE


def test_a_noise_mask_keeps_what_it_covers_and_starts_from_pure_noise_elsewhere(behaviour):
    figures = behaviour["noise_mask"]
    assert figures["kept"] <= TOLERANCE
    assert figures["changed"] > FELT
    assert figures["pure noise inside"] <= TOLERANCE


def test_only_below_denoise_1_the_latent_shows(behaviour):
    assert behaviour["denoise"]["1"] == 0
    assert behaviour["denoise"]["0.5"] > FELT


def test_conditionings_without_subject_for_an_area_or_of_two_edits_work_together(behaviour):
    figures = behaviour["mixed_conditioning"]
    assert figures["bare is λ 0"] <= TOLERANCE
    assert min(figures["area felt"], figures["two felt"]) > FELT


def test_clip_gives_the_librarys_tokens_from_our_loader_and_from_cores(behaviour):
    assert behaviour["clip_vision"]["ours"] <= TOLERANCE
    assert behaviour["clip_vision"]["core's"] <= TOLERANCE


def test_a_clip_of_another_width_is_refused_with_both_widths(behaviour):
    assert "width of 32, but the MEA reads 768" in behaviour["clip_vision"]["another width"]


def test_embeddings_of_another_model_are_refused_with_both_shapes(behaviour):
    said = behaviour["foreign_embeds"]
    assert "are 77 of width 768, but this MEA reads 24 of width 32" in said


def test_the_vae_encodes_and_decodes_as_diffusers_does(behaviour):
    assert max(behaviour["vae"].values()) <= TOLERANCE


def test_a_unet_that_comfyui_cannot_run_is_refused_by_the_settings_name(behaviour):
    said = behaviour["unsupported"]
    assert len(said) == 6
    assert all(setting in message and "ComfyUI" in message for setting, message in said.items())


def test_only_stable_diffusions_latents_are_previewed_in_its_colours(behaviour):
    figures = behaviour["previews"]
    assert figures["own"] == [None, None]
    assert figures["Stable Diffusion"] == figures["core"] != [None, None]


def test_half_precision_gives_nearly_the_same(behaviour):
    assert 0 < behaviour["precision"]["bf16"] < 0.2


@pytest.fixture(scope="module")
def deep(comfy, tmp_path_factory) -> Path:
    """A model whose latents have 16 channels, trained for a step from random weights"""
    folder = tmp_path_factory.mktemp("deep")
    shape = dataclasses.replace(TINY, latent_channels=16)
    start = ModelFolder(make_tiny_folder(folder / "start", shape=shape))
    write(World(64, seed=7), range(4), folder / "edits")
    edits = Edits(folder / "edits", 64)
    recipe = own_recipe(["joint"], steps=1, batch_size=4, lr=1e-3, mixed_precision="no")
    assert OwnTraining(folder / "own", start, edits, edits, recipe).run()
    model = folder / "own" / "model"
    comfy.link_model("flexedit/deep", model)
    return model


@pytest.mark.parametrize("name", ["tiny", "deep", EMBEDDED])
def test_the_graph_gives_the_picture_of_the_command_line(name, request, comfy, model, tmp_path):
    folder = embedded() if name == EMBEDDED else request.getfixturevalue(name)
    graph = Graph()
    scene = load(graph, comfy, "parity_scene.png", 50, 70)[0]
    subject = load(graph, comfy, "parity_subject.png", 40, 30, seed=1)[0]
    mask = free_shape(graph, image=scene)
    words = "put the object in [pic2] here"
    edited = graph.edit(name, scene, mask, steps=4, instruction=words, subject=subject)
    saved = [graph.save(edited), graph.save(scene), graph.save(subject), graph.save_mask(mask)]
    outputs = comfy.run(graph)
    found, *given = (pictures(comfy, outputs, one)[0] for one in saved)

    files = [tmp_path / f"{part}.png" for part in ("scene", "subject", "mask")]
    for picture, file in zip(given, files, strict=True):
        Image.fromarray(np.squeeze(picture).astype(np.uint8)).save(file)
    out = tmp_path / "edited.png"
    arguments = ["edit", "--instruction", words, "--out", out, "--steps", 4, "--device", "cpu"]
    arguments += ["--edit-cfg", 2.0, "--scene-cfg", 1.5, "--model", folder]
    for option, file in zip(("--scene", "--subject", "--mask"), files, strict=True):
        arguments += [option, file]
    assert cli.main([str(argument) for argument in arguments]) == 0
    wanted = np.asarray(Image.open(out)).astype(float)
    assert found.shape == (52, 72, 3)  # padded to the VAE's ratio; Composite cuts it back
    assert np.abs(found[:50, :70] - wanted).max() <= 1
    assert wanted.std() > 5
