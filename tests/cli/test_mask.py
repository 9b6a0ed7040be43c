import json

import pytest

from flexedit import masks
from flexedit.cli import main
from flexedit.masks import strokes
from tests.cli.shell import complaint, pixels, run


def test_a_mask_is_drawn(tmp_path, capsys):
    out = tmp_path / "ring.png"
    settings = ("--size", 60, 40, "--x", 0.3, "--stroke", 0.1, "--seed", 2)
    assert run("mask", "irregular open", "--out", out, *settings) == 0
    drawn = masks.draw("irregular open", 40, 60, x=0.3, stroke=0.1, seed=2)
    assert (pixels(out) == drawn.numpy() * 255).all()
    assert f"share: {round(float(drawn.mean()), 4)}" in capsys.readouterr().out


def test_a_drawing_becomes_a_mask(tmp_path):
    drawing = {"version": 1, "strokes": [{"tool": "circle", "points": [[0.2, 0.3], [0.7, 0.9]]}]}
    (tmp_path / "drawing.json").write_text(json.dumps(drawing))
    out, source = tmp_path / "drawn.png", tmp_path / "drawing.json"
    assert run("mask", "--strokes", source, "--out", out, "--size", "60", "40") == 0
    drawn = strokes.rasterise(strokes.parse(json.dumps(drawing)), 40, 60)
    assert (pixels(out) == 255 * drawn.numpy()).all()


@pytest.mark.parametrize("given", [(), ("circle", "--strokes", "drawing.json")])
def test_a_mask_is_either_a_kind_or_a_drawing(tmp_path, capsys, given):
    assert run("mask", *given, "--out", tmp_path / "a.png") == 2
    assert "either a kind of mask, or --strokes" in capsys.readouterr().err


def test_what_shapes_a_kind_of_mask_is_refused_beside_a_drawing(tmp_path, capsys):
    given = ("--strokes", "drawing.json", "--shape-width", "0.5", "--seed", "0")
    assert run("mask", *given, "--out", tmp_path / "a.png") == 2
    assert "Leave out --shape-width, --seed: a drawing" in capsys.readouterr().err


def test_an_unreadable_drawing_is_refused(tmp_path, capsys):
    (tmp_path / "drawing.json").write_bytes(b"\xff\xfe")
    for name in ("drawing.json", "nowhere.json"):
        assert run("mask", "--strokes", tmp_path / name, "--out", tmp_path / "a.png") == 2
        assert f"{name} cannot be read" in capsys.readouterr().err


def test_an_unknown_kind_of_mask_is_refused(tmp_path, capsys):
    assert run("mask", "star", "--out", tmp_path / "a.png") == 2
    assert "'star'" in complaint(capsys)


@pytest.mark.parametrize("given", [("circle",), ("--strokes", "drawing.json")])
def test_a_mask_has_an_area(given, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("mask", *given, "--size", -5, 10, "--out", tmp_path / "a.png")
    assert stopped.value.code == 2
    assert "argument --size: -5 is less than 1" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", str(2**64), "one"])
def test_a_seed_out_of_range_is_refused(seed, tmp_path, capfd):
    with pytest.raises(SystemExit) as stopped:
        main(["mask", "circle", "--seed", seed, "--out", str(tmp_path / "mask.png")])
    assert stopped.value.code == 2
    assert "--seed" in capfd.readouterr().err.splitlines()[-1]
