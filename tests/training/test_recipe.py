import math

import pytest
import yaml

from flexedit.errors import FlexEditError
from flexedit.model_folder.keys import PARTS
from flexedit.models.parts import Part
from flexedit.systems import preset
from flexedit.training.draws import Losses
from flexedit.training.mini import ORDER
from flexedit.training.recipe import (
    FOLDER,
    MiniRecipe,
    Stages,
    _value,
    mini_recipe,
    own_stages,
    read_recipe,
    system_recipe,
)


def test_every_stage_that_trains_has_its_recipe():
    assert list(mini_recipe().stages) == list(ORDER[1:-1])
    assert list(own_stages()) == ["align", "joint"]
    for name, stage in (mini_recipe().stages | own_stages()).items():
        assert stage.train.steps > stage.train.warmup
        assert (stage.losses is not None) == (name in ("base", "align", "joint"))


@pytest.mark.parametrize(
    ("section", "change", "complaint"),
    [
        ("shape", {"sides": 3}, "shape: unknown setting sides"),
        ("shape", {"size": "64"}, "size is '64'; expected int"),
        ("stages", {"vae": {"train": {"steps": 1, "lr": 0.1}}}, "missing setting batch_size"),
        ("stages", {"vae": {"optimizer": "muon"}}, "unknown setting optimizer"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path, section, change, complaint):
    settings = yaml.safe_load((FOLDER / "mini.yaml").read_text())
    settings[section] |= change
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(FlexEditError, match=rf"my\.yaml.*{complaint}"):
        read_recipe(MiniRecipe, tmp_path / "my.yaml")


@pytest.mark.parametrize("text", ["stages: [", "", "- 1"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, text):
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(FlexEditError, match=r"my\.yaml"):
        read_recipe(MiniRecipe, tmp_path / "my.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("2", 2), ("no", "no"), ("[1, 2]", [1, 2]), ('{"one": "e"}', {"one": "e"})],
)
def test_values_of_the_command_line_are_what_a_recipe_has(text, value):
    assert _value(text) == value


def test_a_recipe_that_extends_another_says_what_differs():
    small, large = system_recipe("flexedit-7b"), system_recipe("flexedit-sdxl")
    assert large.size == 512 and large.start.vllm == small.start.vllm
    assert large.stages["joint"].train.batch_size == 64 and large.data == small.data
    ours, theirs = (recipe.stages["joint"].losses for recipe in (small, large))
    assert ours == theirs


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"noises": 0}, "noises is 0; choose 1 or more"),
        ({"shift": 0.0}, "shift is 0.0; choose a number above 0"),
        ({"drop_edit": -0.1}, "drop_edit is -0.1; choose a share"),
        ({"drop_edit": 0.6, "drop_scene": 0.5}, "but make 1.15; choose smaller"),
        ({"region": math.nan}, "region is nan; choose 0 or more"),
        ({"own": {"picture": -1.0}}, "own.picture is -1.0; choose 0 or more"),
    ],
)
def test_losses_that_make_no_sense_are_refused(setting, complaint):
    settings = {"drop_scene_alone": 0.05} | setting
    with pytest.raises(FlexEditError, match=complaint):
        Losses("joint", ("unet",), **settings)
    everything = dict.fromkeys(("drop_edit", "drop_scene"), 0.3)
    Losses("joint", ("unet",), **everything, drop_scene_alone=0.4)


@pytest.mark.parametrize(
    ("system", "setting", "complaint"),
    [
        ("insightedit", {"own": {"image": 1.0}}, "names image, but parts of .* the losses picture"),
        ("flexedit", {"own": {"picture": 1.0}}, "names picture, .* no losses of their own"),
        ("instructpix2pix", {"perceptual": 1.0}, "has no CLIP that looks"),
    ],
)
def test_losses_that_a_system_has_not_are_refused(system, setting, complaint):
    with pytest.raises(FlexEditError, match=complaint):
        Losses("joint", ("unet",), **setting).check(preset(system, {"name": system, "sources": {}}))


def test_the_losses_that_parts_name_are_those_that_they_have():
    for part in (part for table in PARTS.values() for part in table.values()):
        assert bool(part.own_losses) == (part.losses is not Part.losses)


def test_stages_of_a_system_have_seeds_of_their_own_and_keep_what_is_set():
    def seeds(recipe: Stages) -> list[int]:
        return [stage.train.seed for stage in recipe.stages.values()]

    assert seeds(system_recipe("smartedit-7b", seed=3)) == [20_003, 10_003, 3]
    assert seeds(system_recipe("smartedit-7b", ("stages.unet.train.seed=5",))) == [20_000, 5, 0]
    assert set(seeds(mini_recipe(seed=3))) == {3}  # as it was trained
    said = own_stages(("stages.joint.train.seed=4",), seed=3)
    assert [stage.train.seed for stage in said.values()] == [3, 4]
