"""What importing costs, in processes of their own, and what is in the wheel; no ComfyUI here."""

import os
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import flexedit

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "diffusers", "numpy", "PIL", "scipy"}
LIBRARIES = {"transformers", "diffusers", "peft", "accelerate", "torchvision"}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes", "server", "execution"}
MODULES = [module.name for module in pkgutil.walk_packages(flexedit.__path__, "flexedit.")]


def python(*words: object, folder: Path = ROOT, executable: Path = Path(sys.executable)) -> str:
    done = subprocess.run(
        [executable, *map(str, words)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_by(statements: str) -> set[str]:
    """Top-level modules that a fresh Python holds after these statements."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    return set(python("-c", f"{statements}\nimport sys; print(*{names})").split())


@pytest.mark.parametrize("module", ["flexedit", "flexedit.errors", "flexedit.cli"])
def test_importing_the_surface_imports_nothing_heavy(module):
    assert not imported_by(f"import {module}") & HEAVY


def test_every_module_imports_without_comfyui_and_without_loading_a_model_library():
    """Importing does no work: what reads model folders is imported when one is read."""
    names = [name for name in MODULES if not name.endswith("__main__")]
    assert len(names) > 50
    blocked = f"import sys; sys.modules.update(dict.fromkeys({sorted(COMFYUI)}))"
    imported = imported_by("\n".join([blocked, *(f"import {name}" for name in names)]))
    assert "torch" in imported
    assert not imported & LIBRARIES


def test_the_nodes_need_nothing_that_only_developers_have():
    """import-linter, which sees the rest, does not see imports relative to the pack's root."""
    relative = re.compile(r"^\s*from \.+(?:studies|tests|tools)\b", re.MULTILINE)
    for file in (ROOT / "nodes").rglob("*.py"):
        assert not relative.search(file.read_text(encoding="utf-8")), file


def test_the_public_names_are_those_of_their_rooms():
    from flexedit import (
        EditRequest,
        FlexEditPipeline,
        ModelFolder,
        SystemConfig,
        model_folder,
        pipeline,
        request,
    )
    from flexedit.models import config

    assert EditRequest is request.EditRequest
    assert FlexEditPipeline is pipeline.FlexEditPipeline
    assert ModelFolder is model_folder.ModelFolder
    assert SystemConfig is config.SystemConfig
    with pytest.raises(ImportError, match="nothing"):
        from flexedit import nothing  # noqa: F401


def test_scripts_find_what_moved_where_it_was_first_documented():
    from flexedit import files, strokes
    from flexedit.cli import read_picture, write_picture

    assert strokes.parse("") == ()
    assert (read_picture, write_picture) == (files.load_picture, files.write_picture)


def test_the_version_is_the_projects():
    assert f'version = "{flexedit.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.slow
def test_what_the_wheel_installs_edits(tmp_path):
    """In an environment that has nothing else of this folder: all data is in the wheel."""
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    offline = ("--no-deps", "--no-index")
    source = shutil.copytree(ROOT / "flexedit", tmp_path / "source" / "flexedit").parent
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    python(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("flexedit-*.whl")
    python("-m", "venv", "--without-pip", tmp_path / "clean")
    clean = tmp_path / "clean" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(python("-c", where, executable=clean).strip())
    others = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (site / "others.pth").write_text(others)
    python(*pip, "--python", clean, "install", *offline, wheel)

    def installed(*words: object) -> str:
        return python(*words, folder=tmp_path, executable=clean)

    assert str(site) in installed("-c", "import flexedit; print(flexedit.__file__)")
    missing = [
        file
        for file in (ROOT / "flexedit").rglob("*")
        if file.is_file()
        and file.suffix != ".pyc"
        and not (site / file.relative_to(ROOT)).is_file()
    ]
    assert missing == []
    installed("-m", "flexedit", "data", "--out", ".", "--count", 1)
    files = ("--scene", "0000000_scene.png", "--mask", "0000000_mask.png", "--out", "out.png")
    words = ("--instruction", "remove this", "--steps", 1)
    installed("-m", "flexedit", "edit", *files, *words)
    assert (tmp_path / "out.png").is_file()
