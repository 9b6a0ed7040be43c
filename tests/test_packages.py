"""What is said of packages that are missing, too old or broken, and what goes on without them."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

from flexedit import packages
from flexedit.errors import FlexEditError

ROOT = Path(__file__).resolve().parents[1]
MAIN = """
import os, sys
from tools.comfyui.hide import hide
hide(*os.environ["HIDDEN"].split())
from flexedit.__main__ import main
sys.exit(main())
"""


def flexedit(*arguments, hidden="", path=()):
    """The command line in a process of its own, without some packages, or with others first."""
    search = os.pathsep.join(map(str, (*path, ROOT)))
    environment = os.environ | {"HIDDEN": hidden, "PYTHONPATH": search}
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.fixture
def edit(tmp_path):
    """Removes a half of a grey picture, in a process of its own → how that ended."""
    scene, mask = tmp_path / "scene.png", tmp_path / "mask.png"
    Image.new("RGB", (64, 64), "grey").save(scene)
    Image.new("L", (64, 32), "white").crop((0, 0, 64, 64)).save(mask)
    request = ("--scene", scene, "--mask", mask, "--instruction", "remove this", "--steps", 1)
    return functools.partial(flexedit, "edit", *request, "--out", tmp_path / "out.png")


def fake(folder, name, version, code):
    """A package of a version, as pip would have installed it, but with other code."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    information = folder / f"{name}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    return folder


def complaint(done):
    assert done.returncode == 2, done.stderr
    *_, line = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert len(line) < 1000
    return line


@pytest.mark.parametrize("name", ["transformers", "diffusers"])
def test_an_edit_says_which_package_is_missing(edit, name):
    said = complaint(edit(hidden=name))
    assert f"{name} is not installed, but FlexEdit needs {name}>=" in said
    assert f'pip install "{name}>=' in said


def test_the_command_line_says_that_click_is_missing():
    assert "click is not installed, but FlexEdit needs click>=" in complaint(
        flexedit(hidden="click")
    )


def test_an_edit_needs_no_package_that_only_training_needs(edit, tmp_path):
    done = edit(hidden="peft accelerate timm")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").is_file()


def test_an_old_package_that_breaks_others_is_named(edit, tmp_path):
    broken = "raise ImportError(\"cannot import name 'HybridCache' from 'transformers'\")"
    said = complaint(edit(path=[fake(tmp_path / "site", "peft", "0.17.1", broken)]))
    assert "peft 0.17.1 is installed, but FlexEdit needs peft>=0.18" in said


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("from diffusers.missing import model", "No module named 'diffusers.missing'"),
        ("import torch; torch.nothing", "module 'torch' has no attribute 'nothing'"),
        ("raise ValueError('numpy.dtype size changed')", "numpy.dtype size changed"),
    ],
)
def test_a_package_of_the_right_version_that_is_broken_is_named(code, why, edit, tmp_path):
    said = complaint(edit(path=[fake(tmp_path / "site", "diffusers", "0.40.0", code)]))
    assert f"cannot be imported: {why}" in said
    assert "diffusers 0.40.0" in said
    if "No module" in why:
        assert "pip install --force-reinstall --no-deps diffusers==0.40.0" in said


def test_notes_of_an_interrupted_upgrade_do_not_count(tmp_path, monkeypatch):
    site = fake(tmp_path / "site", "transformers", "4.40.0", "")
    shutil.rmtree(site / "transformers")
    fake(site, "transformers", "5.1.0", "")
    (site / "transformers-4.1.dist-info").mkdir()
    monkeypatch.syspath_prepend(site)
    assert packages.version_of("transformers") == "5.1.0"


def test_a_cause_is_named_beside_what_else_is_wrong(monkeypatch):
    monkeypatch.setattr(packages, "complaints", lambda: ["peft is not installed."])
    error = ImportError("No module named 'num2words'", name="num2words")
    said = packages.explain(error)
    assert "No module named 'num2words'" in said and "peft is not installed" in said


def test_requirements_are_read_like_pip_reads_them(tmp_path, monkeypatch):
    (tmp_path / "nodes").mkdir()
    lines = ["\ufeff# ours", "", "einops>=0.8 # why", "-r other.txt", "tqdm>=4.66"]
    (tmp_path / "requirements.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    packages.requirements.cache_clear()
    assert list(packages.requirements()) == ["einops", "tqdm"]
    packages.requirements.cache_clear()


def test_drawing_needs_no_model_library(tmp_path):
    out = tmp_path / "mask.png"
    done = flexedit("mask", "circle", "--out", out, hidden="transformers diffusers peft accelerate")
    assert done.returncode == 0, done.stderr
    assert out.is_file()


def test_info_shows_the_versions_and_what_is_wrong_with_them(tmp_path):
    path = [fake(tmp_path / "site", "peft", "0.17.1", "")]
    done = flexedit("info", "--json", path=path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["peft"] == "0.17.1"
    assert report["transformers"] == packages.version_of("transformers")
    assert report["Python"].startswith("3.")
    assert "peft 0.17.1 is installed, but FlexEdit needs peft>=0.18" in done.stderr


def test_versions_are_shown_without_the_package_that_compares_them():
    code = "from flexedit import packages; print(packages.summary(), packages.complaints())"
    hidden = "from tools.comfyui.hide import hide; hide('packaging'); "
    command = [sys.executable, "-c", hidden + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"transformers {packages.version_of('transformers')}" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_pre_releases_count_by_their_number(monkeypatch):
    needs = {"einops": Requirement("einops>=0.1")}
    monkeypatch.setattr(packages, "requirements", lambda: needs)
    monkeypatch.setattr(packages, "version_of", lambda name: "0.9.dev3")
    assert packages.complaints() == []


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="no import"), packages.needed("torch"):
        raise RuntimeError("no import")
    with pytest.raises(FlexEditError, match="empty"), packages.needed():
        raise FlexEditError("The mask is empty.")
