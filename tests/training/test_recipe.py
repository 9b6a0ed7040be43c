import pytest
import yaml

from flexedit.errors import FlexEditError
from flexedit.training.mini import ORDER
from flexedit.training.recipe import (
    FOLDER,
    MiniRecipe,
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
