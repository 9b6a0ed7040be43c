import json

import pytest

from flexedit import masks
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "either a kind of mask, or --strokes"),
        (("circle", "--strokes", "bytes.json"), "either a kind of mask, or --strokes"),
        (("--strokes", "bytes.json", "--shape-width", 0.5, "--seed", 0), "--shape-width, --seed"),
        (("--strokes", "bytes.json"), "bytes.json cannot be read"),
        (("--strokes", "nowhere.json"), "nowhere.json cannot be read"),
        (("star",), "'star'"),
    ],
)
def test_what_cannot_be_drawn_is_explained_in_one_line(
    words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    assert run("mask", *words, "--out", "a.png") == 2
    assert message in complaint(capsys)


@pytest.mark.parametrize("name", ["out.nonsense", "file/out.png"])
def test_a_place_that_cannot_be_written_to_is_named(name, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run("mask", "circle", "--out", tmp_path / name) == 2
    assert f"{tmp_path / name} cannot be written" in complaint(capsys)
