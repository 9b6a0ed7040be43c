"""What every system keeps, by its YAML alone: a new one needs no test of its own."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flexedit import cli
from flexedit.data.world import CLASSES, World
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder, save_model_folder
from flexedit.models.parts import SLOTS
from flexedit.pipeline import FlexEditPipeline
from flexedit.request import EditRequest
from flexedit.systems import PRESETS
from flexedit.training.draws import Losses
from flexedit.training.model import TrainingModel
from flexedit.training.trainer import TrainConfig, Trainer
from tests.comfyui.graph import Graph, free_shape, load, pictures
from tests.tiny import TINY, make_tiny_system, make_tiny_xl

STEPS, BATCH = 2, 2


class Interrupted(World):
    """Samples that end the run in its last step."""

    def __getitem__(self, index: int) -> Any:
        if index >= (STEPS - 1) * BATCH:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def train(start: ModelFolder, folder: Path, samples: World) -> dict[str, torch.Tensor]:
    """All tensors after two steps that train every slot."""
    torch.manual_seed(0)
    model = TrainingModel(start, Losses("joint", SLOTS), len(CLASSES))
    model.start_from(start.all_tensors())
    config = TrainConfig(steps=STEPS, batch_size=BATCH, lr=1e-3, checkpoint_every=1)
    Trainer(model, samples, config, folder).run()
    return {name: tensor.detach().clone() for name, tensor in model.tensors().items()}


# Every YAML, and a UNet of another kind
STARTS = {name: partial(make_tiny_system, name) for name in PRESETS} | {"sdxl": make_tiny_xl}


@pytest.fixture(scope="module", params=STARTS)
def systems(request, tmp_path_factory) -> tuple[ModelFolder, ModelFolder]:
    """A system with random weights, and the same one after its training, which was interrupted."""
    folder = tmp_path_factory.mktemp(request.param)
    start = STARTS[request.param](folder / "start")
    straight = train(start, folder / "straight", World(TINY.size))
    with pytest.raises(KeyboardInterrupt):
        train(start, folder / "run", Interrupted(TINY.size))
    tensors = train(start, folder / "run", World(TINY.size))
    assert tensors.keys() == straight.keys()
    assert all(torch.equal(tensors[name], straight[name]) for name in tensors)

    shutil.copytree(start.path, folder / "trained")
    save_model_folder(folder / "trained", start.config, tensors, torch.float32)
    return start, ModelFolder(folder / "trained")


def test_every_slot_learns_and_is_kept(systems):
    start, trained = systems
    before, after = start.all_tensors(), trained.all_tensors()
    assert before.keys() == after.keys()
    for slot in SLOTS:
        names = [name for name in trained.tensors(slot) if name != "null.edit"]
        assert not names or any(not torch.equal(before[name], after[name]) for name in names)


def test_a_folder_is_read_strictly(systems, tmp_path):
    _, trained = systems
    tensors = trained.all_tensors()
    for slot in SLOTS:
        if not (names := list(trained.tensors(slot))):
            continue
        shutil.copytree(trained.path, tmp_path, dirs_exist_ok=True)
        lacking = {name: tensor for name, tensor in tensors.items() if name != names[0]}
        save_model_folder(tmp_path, trained.config, lacking, torch.float32)
        with pytest.raises(FlexEditError, match=f"lacks {names[0]}"):
            FlexEditPipeline.from_pretrained(tmp_path, "cpu").load()


def test_a_row_is_edited_alike_alone_and_beside_others(systems):
    """One has a subject, one none; and all of it again with one mask, and with none."""
    pipeline, draw = FlexEditPipeline(systems[1], "cpu"), torch.Generator().manual_seed(0)
    scene, subject = (torch.rand(2, 3, 48, 64, generator=draw) for _ in range(2))
    mask = torch.zeros(2, 48, 64)
    mask[0, 8:30, 8:30] = mask[1, 20:40, 30:60] = 1
    words = ("remove this", "put the object in [pic2] here")
    one_of_them = mask * torch.tensor([1, 0])[:, None, None]
    for given in (mask, one_of_them, None):
        both = EditRequest(scene, given, words, ("edit",) * 2, subject, (False, True))
        together = pipeline(both, seed=(3, 4)).picture
        for row in range(2):
            rows = slice(row, row + 1)
            own = None if given is None or not given[row].any() else given[rows]
            alone = EditRequest(
                scene[rows], own, words[rows], ("edit",), subject[rows], (bool(row),)
            )
            found = pipeline(alone, seed=3 + row).picture
            torch.testing.assert_close(together[row : row + 1], found, atol=2e-3, rtol=0)


@pytest.fixture(scope="module")
def in_comfyui(systems, comfy) -> tuple[ModelFolder, str]:
    """A trained system, and its name in ComfyUI."""
    name = systems[1].config.name
    comfy.link_model(f"flexedit/{name}", systems[1].path)
    return systems[1], name


@pytest.mark.parametrize("with_subject", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_the_command_line_and_a_graph_edit_alike(
    with_mask, with_subject, in_comfyui, comfy, tmp_path
):
    (folder, name), graph = in_comfyui, Graph()
    scene = load(graph, comfy, "scene.png", 50, 70)[0]
    subject = load(graph, comfy, "subject.png", 40, 30, seed=1)[0] if with_subject else None
    mask = free_shape(graph, image=scene) if with_mask else None
    words = "put the object in [pic2] here"
    request = {"instruction": words, "subject": subject, "reply": "auto"}  # as the command line
    edited = graph.edit(name, scene, mask, steps=3, **request)
    saved = {"edited": graph.save(edited), "scene": graph.save(scene)}
    if subject is not None:
        saved["subject"] = graph.save(subject)
    if mask is not None:
        saved["mask"] = graph.save_mask(mask)
    outputs = comfy.run(graph)
    given = {name: pictures(comfy, outputs, node)[0] for name, node in saved.items()}
    found = given.pop("edited")

    arguments = ["edit", "--instruction", words, "--model", folder.path, "--device", "cpu"]
    arguments += ["--edit-cfg", 2.0, "--scene-cfg", 1.5, "--out", tmp_path / "edited.png"]
    for name, picture in given.items():
        file = tmp_path / f"{name}.png"
        Image.fromarray(np.squeeze(picture).astype(np.uint8)).save(file)
        arguments += [f"--{name}", file]
    assert cli.main([str(argument) for argument in arguments]) == 0
    wanted = np.asarray(Image.open(tmp_path / "edited.png")).astype(float)
    assert np.abs(found[:50, :70] - wanted).max() <= 1
    assert wanted.std() > 5
