"""What importing costs, in processes of their own; nothing here needs ComfyUI."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "diffusers", "numpy", "PIL", "scipy"}
LIBRARIES = {"transformers", "diffusers", "peft", "accelerate", "torchvision"}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes", "server", "execution"}


def imported_by(statements: str) -> set[str]:
    """Top-level modules that a fresh Python holds after these statements."""
    code = f"{statements}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stderr == ""
    return set(process.stdout.split())


def modules() -> list[str]:
    import flexedit

    found = pkgutil.walk_packages(flexedit.__path__, "flexedit.")
    return [module.name for module in found if not module.name.endswith("__main__")]


@pytest.mark.parametrize("module", ["flexedit", "flexedit.errors", "flexedit.cli"])
def test_importing_the_surface_imports_nothing_heavy(module):
    assert not imported_by(f"import {module}") & HEAVY


def test_every_module_imports_without_comfyui_and_without_loading_a_model_library():
    """Importing does no work: what reads model folders is imported when one is read."""
    assert len(modules()) > 25
    blocked = f"import sys; sys.modules.update(dict.fromkeys({sorted(COMFYUI)}))"
    imported = imported_by("\n".join([blocked, *(f"import {name}" for name in modules())]))
    assert "torch" in imported
    assert not imported & LIBRARIES


def test_no_line_of_the_library_names_comfyuis_modules():
    names = "|".join(COMFYUI)
    imports = re.compile(rf"^\s*(?:import|from)\s+(?:{names})\b", re.MULTILINE)
    for file in (ROOT / "flexedit").rglob("*.py"):
        assert not imports.search(file.read_text(encoding="utf-8")), file


def test_the_version_is_the_projects():
    import flexedit

    assert f'version = "{flexedit.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_scripts_find_what_moved_where_it_was_first_documented():
    from flexedit import files, strokes
    from flexedit.cli import read_picture, write_picture

    assert strokes.parse("") == ()
    assert (read_picture, write_picture) == (files.load_picture, files.write_picture)
