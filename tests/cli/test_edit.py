import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexedit.pipeline import FlexEditPipeline
from tests.cli.shell import complaint, pixels, run
from tests.tiny import make_tiny_system
from tests.tiny_vllms import make_tiny_vllm

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """37 wide, 21 high"""
    pixels = np.random.default_rng(0).integers(0, 255, (21, 37, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White on black, of another size than the scene"""
    pixels = np.zeros((40, 40), np.uint8)
    pixels[10:30, 5:20] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def edit(tiny: Path, scene: Path, *arguments: object) -> int:
    out = scene.with_name("out.png")
    instruction = () if "--instruction" in arguments else ("--instruction", "remove this")
    model = () if "--model" in arguments else ("--model", tiny)
    out = () if "--out" in arguments else ("--out", out)
    common = ("--scene", scene, "--device", "cpu", *model, *out, *instruction)
    steps = () if "--steps" in arguments else ("--steps", 2)
    return run("edit", *common, *steps, *arguments)


# What it does


@pytest.mark.parametrize("crop", [["--crop"], []])
def test_a_transparent_scene_stays_so_and_what_it_hides_changes_nothing(crop, tiny, scene, mask):
    results, profile = [], b"\0" * 16 + b"RGB " + b"\0" * 108
    for hidden in (0, 255):
        picture = np.full((60, 90, 4), 255, np.uint8)
        picture[..., 1], picture[20:, 60:] = 40, (hidden, hidden, hidden, 0)
        Image.fromarray(picture).save(scene, icc_profile=profile)
        assert edit(tiny, scene, "--mask", mask, *crop) == 0
        edited = Image.open(scene.with_name("out.png"))
        assert edited.mode == "RGBA" and edited.info["icc_profile"] == profile
        results.append(np.asarray(edited))
        assert (results[-1][50:, 80:, 3] == 0).all()
        assert not crop or (results[-1][50:, 80:] == picture[50:, 80:]).all()
    seen = results[0][..., 3] > 0
    assert (results[0][seen] == results[1][seen]).all() and not seen.all()


def test_standard_output_is_one_json_object_and_nothing_else(tiny, scene, mask):
    out = scene.with_name("out.png")
    files = ["--scene", scene, "--mask", mask, "--model", tiny, "--out", out]
    words = ["--instruction", "remove this", "--steps", "2", "--json"]
    process = subprocess.run(
        [sys.executable, "-m", "flexedit", "edit", *files, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("\n") == 1
    assert json.loads(process.stdout) == {"out": str(out), "reply": "", "label": ""}
    assert process.stderr.split() == ["step", "1/2", "step", "2/2"]
    assert Image.open(out).size == (37, 21)


def test_every_option_of_an_edit_has_an_effect(tiny, scene, mask):
    def result(*arguments: object) -> bytes:
        assert edit(tiny, scene, *arguments) == 0
        return pixels(scene.with_name("out.png")).tobytes()

    Image.new("RGB", (30, 20), "red").save(scene.with_name("subject.png"))
    subject = ("--subject", scene.with_name("subject.png"))
    plain = result()
    assert result() == plain
    results = [
        plain,
        result("--mask", mask),
        result("--seed", 1),
        result("--steps", 3),
        result("--edit-cfg", 9),
        result("--scene-cfg", 9),
        result(*subject),
        result(*subject, "--subject-strength", 3),
    ]
    assert [results.index(one) for one in results] == list(range(len(results)))


def test_an_edit_may_speak_first(tiny, scene, capsys):
    assert edit(tiny, scene, "--reply", "generate", "--json") == 0
    assert json.loads(capsys.readouterr().out)["reply"]


def test_painting_the_object_needs_no_words(tiny, scene, mask):
    assert edit(tiny, scene, "--mask", mask, "--task", "segment", "--instruction", "") == 0


def test_a_scribble_is_interpreted_and_its_object_painted(tiny, scene, mask, capsys):
    out = scene.with_name("deep") / "whole.png"
    arguments = ("--scene", scene, "--mask", mask, "--model", tiny, "--device", "cpu")
    assert run("interpret", *arguments, "--mask-out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"reply", "label", "mask", "share"} and report["mask"] == str(out)
    painted = Image.open(out)
    assert report["share"] == pytest.approx(np.asarray(painted).mean() / 255, abs=1e-3)
    assert painted.size == (37, 21) and painted.mode == "L"
    assert set(np.unique(painted)) <= {0, 255}


def test_an_instruction_is_said_at_length(tiny, scene, tmp_path, capsys):
    folder = make_tiny_vllm("llava", tmp_path / "llava")
    asked = ("interpret", "--expressive", "--scene", scene, "--instruction", "make it red")
    assert run(*asked, "--vllm", folder, "--device", "cpu", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"instruction"} and 0 < len(report["instruction"].split()) <= 32
    assert run(*asked, "--model", tiny, "--device", "cpu") == 2
    assert "was not taught to say an instruction at length" in complaint(capsys)


def test_what_a_model_does_not_use_is_said_once_and_changes_nothing(scene, tmp_path, capsys):
    model = make_tiny_system("instructpix2pix", tmp_path / "model").path
    assert edit(model, scene) == 0
    plain, said = pixels(scene.with_name("out.png")), capsys.readouterr().err
    assert "flexedit:" not in said
    more = ("--subject", scene, "--reply", "generate", "--subject-strength", 0.5)
    assert edit(model, scene, *more) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "flexedit:" in line]
    assert [note.split()[1:3] for note in notes] == [
        ["The", "subject"], ["The", "reply"], ["The", "subject's"]
    ]  # fmt: skip
    assert np.array_equal(pixels(scene.with_name("out.png")), plain)


@pytest.mark.parametrize("small", [False, True])
def test_the_part_around_the_mask_can_be_edited_alone(small, tiny, tmp_path, capsys):
    photo, mask = Image.effect_noise((400, 300), 60).convert("RGB"), Image.new("L", (400, 300))
    mask.paste(255, (180, 120, 220, 160))
    if small:
        mask = mask.resize((64, 64), Image.Resampling.NEAREST)  # the size of the crop
    photo.save(tmp_path / "scene.png"), mask.save(tmp_path / "mask.png")
    files = ("--mask", tmp_path / "mask.png")
    assert edit(tiny, tmp_path / "scene.png", *files, "--crop") == 0
    assert "learned from" not in capsys.readouterr().err
    after, before = pixels(tmp_path / "out.png"), np.asarray(photo)
    changed = (after != before).any(-1)
    assert changed[124:156, 186:214].mean() > 0.9
    changed[90:190, 150:250] = False  # the square is twice as large as the mask
    assert after.shape == before.shape and not changed.any()


def test_a_picture_far_too_large_for_the_model_is_pointed_out(tiny, tmp_path, capsys):
    Image.new("RGB", (200, 60)).save(tmp_path / "scene.png")
    assert edit(tiny, tmp_path / "scene.png", "--steps", 1) == 0
    assert "has 200×60 pixels, but this model learned from 64×64" in capsys.readouterr().err


def test_a_photo_that_was_taken_sideways_is_turned_upright(tiny, scene):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it upright
    Image.open(scene).save(scene.with_name("photo.jpg"), exif=exif)
    assert edit(tiny, scene.with_name("photo.jpg")) == 0
    assert Image.open(scene.with_name("out.png")).size == (21, 37)


# What goes wrong is told in one line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--instruction", "  "), "instruction is empty"),
        (("--instruction", "x" * 5000), "5000 characters"),
        (("--instruction", "word " * 700), "needs"),
        (("--steps", 0), "steps is 0"),
        (("--model", "nowhere"), "no model folder nowhere"),
        (("--device", "gpu"), "'gpu' cannot be used"),
        (("--mask", "nowhere.png"), "nowhere.png cannot be read as a picture"),
        (("--subject", "half.png"), "half.png cannot be read as a picture"),
        (("--mask", "black.png"), "Paint over"),
        (("--crop",), "--crop cuts around the mask"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_input_is_explained_in_one_line(arguments, message, tiny, scene, capsys, monkeypatch):
    monkeypatch.chdir(scene.parent)
    Image.new("L", (37, 21)).save("black.png")
    Path("half.png").write_bytes(scene.read_bytes()[:1500])
    assert edit(tiny, scene, *arguments) == 2
    assert message in complaint(capsys)
    assert not scene.with_name("out.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--expressive",), "The instruction is empty"),
        (("--expressive", "--instruction", "x", "--mask", "scene.png"), "sees no mask"),
        (("--expressive", "--instruction", "x", "--vllm", "a", "--model", "b"), "Give either"),
        (("--expressive", "--instruction", "x", "--vllm", "nowhere"), "nowhere cannot be loaded"),
        (("--vllm", "nowhere"), "--vllm is for --expressive"),
    ],
)
def test_a_bad_question_is_explained_in_one_line(arguments, message, scene, capsys, monkeypatch):
    monkeypatch.chdir(scene.parent)
    assert run("interpret", "--scene", scene, *arguments) == 2
    assert message in complaint(capsys)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_a_lack_of_memory_is_one_line(error, tiny, scene, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(FlexEditPipeline, "__call__", fail)
    assert edit(tiny, scene) == 2
    assert "not enough memory" in complaint(capsys)


def test_offload_and_fewer_bits_edit_too_and_other_bits_are_refused(tiny, scene, mask, capsys):
    assert edit(tiny, scene, "--mask", mask) == 0
    whole = pixels(scene.with_name("out.png"))
    assert edit(tiny, scene, "--mask", mask, "--offload") == 0
    assert np.array_equal(pixels(scene.with_name("out.png")), whole)
    assert edit(tiny, scene, "--mask", mask, "--offload", "--vllm-bits", 8) == 0
    assert not np.array_equal(pixels(scene.with_name("out.png")), whole)
    capsys.readouterr()
    assert edit(tiny, scene, "--mask", mask, "--vllm-bits", 5) == 2
    assert "5 bits a weight; choose 8 or 4" in complaint(capsys)
