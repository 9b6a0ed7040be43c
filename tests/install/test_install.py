"""Installing the pack as people do: from its repository, from the registry's archive, by pip."""

import json
import re
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.install import tools
from tools import workflows
from tools.comfyui.fetch import PACK

pytestmark = pytest.mark.slow

NODES = json.loads((PACK / "tests" / "comfyui" / "object_info.json").read_text())
LEFT_OUT = ("studies/", "tests/", "tools/", "docs/pictures/")
LEFT_OUT += (".ci/", ".cache/", ".venv/", "out/", "runs/")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    if not (PACK / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a clone of the repository")
    return tools.repository(tmp_path_factory.mktemp("source") / "flexedit")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def archive(repository, home):
    """What `comfy node publish` would send to the registry."""
    tools.comfy("node", "pack", home=home, folder=repository)
    return (repository / tools.ARCHIVE).rename(home / tools.ARCHIVE)


@pytest.fixture(scope="module")
def names(archive):
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


def test_the_registrys_own_checks_find_nothing_to_warn_of(repository, home):
    printed = tools.comfy("node", "validate", home=home, folder=repository)
    assert "All validation checks passed" in printed
    assert not re.search("warning|error", printed, re.IGNORECASE)


def test_the_archive_has_all_that_runs_or_is_shown(names):
    wanted = ["__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "NOTICE"]
    for folder in ("nodes", "flexedit", "web", "workflows", "subgraphs"):
        files = (path for path in (PACK / folder).rglob("*") if path.is_file())
        wanted += [str(path.relative_to(PACK)) for path in files if "__pycache__" not in path.parts]
    assert [name for name in wanted if name not in names] == []


def test_the_archive_has_nothing_else(names, archive):
    assert [name for name in names if name.startswith(LEFT_OUT)] == []
    assert not names & {"Makefile", "requirements-dev.txt", ".gitignore", ".comfyignore"}
    assert archive.stat().st_size < 40e6


def test_comfyui_loads_the_archive(archive):
    with tools.ServerWithArchive(archive) as comfy:
        comfy.import_seconds()  # which raises where the import failed
        ours = {name for name in comfy.object_info() if name.startswith("FlexEdit")}
        assert set(NODES) <= ours
        assert comfy.get("workflow_templates").json()["flexedit"]
        templates = {path.stem for path in workflows.TEMPLATES.values()}
        assert set(comfy.get("workflow_templates").json()["flexedit"]) == templates
        for name in templates:
            thumbnail = comfy.get(f"api/workflow_templates/flexedit/{name}.jpg")
            assert thumbnail.headers["Content-Type"] == "image/jpeg"
        offered = comfy.get("global_subgraphs").json().values()  # a newer core has its own
        ours = [one for one in offered if one["source"] == "custom_node"]
        assert len(ours) == len(workflows.BLUEPRINTS)
        assert "registerExtension" in comfy.get("extensions/flexedit/flexedit.js").text
        assert comfy.get("extensions/flexedit/docs/FlexEditLoader.md").text


@pytest.fixture(scope="module")
def comfyui(repository, home, tmp_path_factory):
    """A ComfyUI into which comfy-cli, and the manager below it, installed the pack."""
    folder = tools.clean_comfyui(tmp_path_factory.mktemp("workspace") / "ComfyUI")
    command = ("--workspace", folder, "node", "install", "--no-deps", "--mode", "local")
    with tools.served(repository) as address:
        tools.comfy(*command, "--exit-on-fail", address, home=home, folder=folder.parent)
    return folder


def test_comfy_cli_installs_it_from_its_repository(comfyui, repository, names):
    (installed,) = (comfyui / "custom_nodes").iterdir()
    assert installed.name == "flexedit"
    for name in names:
        assert (installed / name).read_bytes() == (repository / name).read_bytes(), name


def test_that_comfyui_starts_with_every_node(comfyui, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    with tools.ServerOf(comfyui) as server:
        server.import_seconds()  # which raises where the import failed
        assert set(NODES) <= set(server.object_info())


def test_the_manager_knows_it_and_can_switch_it_off_and_on(comfyui, repository, home, tmp_path):
    """`cm-cli show` lists only what the registry or the manager's own list has; a snapshot, all."""
    commit = tools.run("git", "-C", repository, "rev-parse", "HEAD").strip()
    pack, snapshot = comfyui / "custom_nodes" / "flexedit", tmp_path / "snapshot.json"
    place = {"home": home, "comfyui": comfyui}
    tools.manager("disable", "flexedit", "--mode", "local", **place)
    assert not pack.exists()
    tools.manager("enable", "flexedit", "--mode", "local", **place)
    assert (pack / "__init__.py").exists()
    tools.manager("save-snapshot", "--output", snapshot, **place)
    ((address, entry),) = json.loads(snapshot.read_text())["git_custom_nodes"].items()
    assert address.endswith("/flexedit.git")
    assert entry == {"hash": commit, "disabled": False}


def test_pip_leaves_torch_and_numpy_as_they_are(tmp_path):
    """Where only they are installed, as in a ComfyUI that never had this pack."""
    site = tmp_path / "bare"
    tools.run(sys.executable, "-m", "venv", "--without-pip", site)
    python = site / "bin" / "python"
    packages = tools.site_of(python)
    here = Path(sysconfig.get_path("purelib"))
    for pattern in ("torch-*.dist-info", "torchvision-*.dist-info", "numpy-*.dist-info"):
        (found,) = here.glob(pattern)
        shutil.copytree(found, packages / found.name)
    report = tmp_path / "report.json"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    tools.run(*pip, "--dry-run", "--report", report, "-r", PACK / "requirements.txt")
    chosen = {
        item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]
    }
    assert {"diffusers", "transformers", "scipy"} <= chosen
    assert not chosen & {"torch", "torchvision", "torchaudio", "numpy"}
