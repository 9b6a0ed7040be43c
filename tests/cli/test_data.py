import json

import numpy as np
import pytest
import yaml
from PIL import Image

from flexedit.data.mixture import samples_from
from tests.cli.shell import run


def test_samples_of_the_synthetic_world_are_written(tmp_path, capsys):
    out = tmp_path / "samples"
    assert run("data", "--out", out, "--count", 2, "--size", 48, "--split", "heldout") == 0
    assert "samples: 2" in capsys.readouterr().out
    assert any(Image.open(file).size == (48, 48) for file in out.rglob("*.png"))


def test_without_a_command_the_folder_is_missing(capsys):
    assert run("data", "--count", 2) == 2
    assert "Missing option '--out'" in capsys.readouterr().err


@pytest.fixture
def mixture(tmp_path, capsys):
    """Two folders of the synthetic world"""
    for seed in (1, 2):
        command = ("data", "--out", tmp_path / f"w{seed}", "--count", 8, "--seed", seed)
        assert run(*command) == 0
    parts = [{"source": f"w{seed}", "group": "own"} for seed in (1, 2)]
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump({"data": parts}))
    capsys.readouterr()
    return tmp_path / "mixture.yaml"


def test_a_preview_shows_scenes_and_targets_as_training_sees_them(mixture, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    command = ("data", "preview", mixture, "--size", 64, "--count", 5, "--columns", 2)
    assert run(*command, "--out", out) == 0
    shown = np.asarray(Image.open(out))
    height, width = shown.shape[0] // 3, shown.shape[1] // 2
    samples = samples_from(str(mixture), 64)
    for number in range(5):
        sample = samples[number]
        corner = shown[number // 2 * height :, number % 2 * width :]
        if sample.target is not None:
            assert np.abs(corner[:64, 66:130].astype(int) - sample.target).max() <= 1
        clear = sample.mask == 0
        assert np.abs(corner[:64, :64].astype(int) - sample.scene)[clear].max() <= 1
        assert (corner[:64, :64].astype(int) >= sample.scene)[~clear].all()  # whiter there
        assert corner[66:110].std() > 5  # there are words below it


def test_stats_count_what_is_drawn(mixture, capsys):
    assert run("data", "stats", mixture, "--size", 64, "--count", 40, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == {"own": {"rows": 8}, "own 2": {"rows": 8}}
    samples = [samples_from(str(mixture), 64)[index] for index in range(40)]
    for name, said in found["samples"].items():
        mine = [sample for sample in samples if sample.source == name]
        assert said["share"] == round(len(mine) / 40, 3)
        assert sum(said["operations"].values()) == len(mine) == sum(said["masks"].values())
    assert sum(said["share"] for said in found["samples"].values()) == pytest.approx(1)
    assert run("data", "stats", mixture, "--count", 2) == 0
    assert json.loads(capsys.readouterr().out)["bad"] == {}


def test_data_that_there_is_not_is_said_in_one_line(tmp_path, capsys):
    assert run("data", "preview", tmp_path / "none.yaml") == 2
    assert "none.yaml cannot be read" in capsys.readouterr().err
