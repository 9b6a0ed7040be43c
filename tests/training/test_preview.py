import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from flexedit.data.world import CLASSES, World
from flexedit.model_folder import ModelFolder
from flexedit.training.draws import Losses
from flexedit.training.model import TrainingModel
from flexedit.training.preview import PictureGrid, edit, evaluating
from tests.tiny import make_tiny_folder

RECIPE = Losses(stage="joint", parts=("unet", "adapter", "bridge", "vllm"))


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> TrainingModel:
    """A system in training, with much dropout"""
    path = tmp_path_factory.mktemp("validation") / "model"
    folder = ModelFolder(make_tiny_folder(path, vllm={"lora": {"dropout": 0.5}}))
    system = TrainingModel(folder, RECIPE, len(CLASSES))
    system.start_from(folder.all_tensors())
    sampling = dataclasses.replace(system.config.sampling, num_steps=2)
    system.config = dataclasses.replace(system.config, sampling=sampling)
    return system


def modes(system: TrainingModel) -> list[bool]:
    return [module.training for module in system.modules()]


def test_pictures_are_made_without_dropout(system, tmp_path):
    before, batch, pictures = (
        modes(system),
        PictureGrid(system, tmp_path, World(64), count=1).batch,
        [],
    )
    for seed in range(2):
        torch.manual_seed(seed)
        pictures.append(edit(system, batch))
    assert torch.equal(*pictures)
    assert modes(system) == before and len(set(before)) == 2  # frozen parts stay in eval


def test_what_goes_wrong_in_evaluation_still_leaves_the_system_training(system):
    before = modes(system)
    with pytest.raises(KeyboardInterrupt), evaluating(system):
        assert not any(modes(system))
        raise KeyboardInterrupt
    assert modes(system) == before


def test_a_grid_has_scenes_edits_and_truth(system, tmp_path):
    picture = PictureGrid(system, tmp_path, World(64), count=2)(7)
    written = Image.open(tmp_path / "000007.png")
    assert written.size == (2 * 64, 3 * 64) and np.array_equal(written, picture)


def test_one_process_writes_what_all_of_them_make(system, tmp_path):
    picture = PictureGrid(system, tmp_path / "here", World(64), count=1, writes=False)(7)
    assert picture.shape == (3 * 64, 64, 3) and not (tmp_path / "here").exists()
