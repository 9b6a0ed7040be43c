from PIL import Image

from tests.cli.shell import run


def test_samples_of_the_synthetic_world_are_written(tmp_path, capsys):
    out = tmp_path / "samples"
    assert run("data", "--out", out, "--count", 2, "--size", 48, "--split", "heldout") == 0
    assert "samples: 2" in capsys.readouterr().out
    assert any(Image.open(file).size == (48, 48) for file in out.rglob("*.png"))
