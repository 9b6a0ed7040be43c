"""docs/api.md, word for word."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flexedit.model_folder import EMBEDDED, PRETRAINED
from tests.comfyui.without_model import RADIUS, disc_on_grass, distance
from tools.comfyui.fetch import PACK


@pytest.fixture(scope="module")
def program() -> str:
    if not (PRETRAINED / EMBEDDED).is_dir():
        pytest.skip(f"this checkout lacks the weights of {EMBEDDED}")
    text = (PACK / "docs" / "api.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.fixture
def run(comfy, tmp_path):
    """Runs a program in a folder with a photo and the workflows."""
    disc_on_grass().save(tmp_path / "photo.png")
    shutil.copytree(PACK / "workflows", tmp_path / "workflows")

    def run(program: str) -> subprocess.CompletedProcess:
        (tmp_path / "program.py").write_text(program, encoding="utf-8")
        address = {"COMFYUI": f"http://{comfy.address}", "no_proxy": "127.0.0.1"}
        return subprocess.run(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            env=os.environ | address,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_the_guides_program_edits_a_photo_and_finds_the_object(program, run, tmp_path):
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert "Edit: 20 of 20" in done.stdout and "The model says:" in done.stdout
    assert "candidate 1: confidence" in done.stdout
    photo = np.asarray(Image.open(tmp_path / "photo.png"))
    edited = np.asarray(Image.open(tmp_path / "edited.png").convert("RGB"))
    assert photo.shape == edited.shape and (photo != edited).any()
    mask = np.asarray(Image.open(tmp_path / "mask.png").convert("L")) > 127
    disc = distance() < RADIUS
    assert (mask & disc).sum() / (mask | disc).sum() > 0.8


def test_the_guides_program_says_which_input_is_wrong(program, run):
    wrong = program.replace(
        'inputs["What is meant"]["instruction"] = "remove this"',
        'inputs["Edit"]["steps"] = -1',
    )
    assert wrong != program
    done = run(wrong)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("FlexEditKSampler: Value -1 smaller than min of 1, steps")


def test_the_guides_program_shows_what_went_wrong_in_a_node(program, run):
    wrong = program.replace('"tool": "brush"', '"tool": "pencil"')
    assert wrong != program
    done = run(wrong)
    assert done.returncode == 1
    assert done.stderr.startswith("Where: Stroke 1 has the unknown tool")
