"""What has to work in an environment of other packages; test_sets.py runs it there.

MADE is a folder of what the environment of `make` wrote (see `make`), WRITTEN where this one writes
what that one has to read, WANTED the versions that have to be here.
"""

import json
import os
import pkgutil
from importlib import import_module, metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flexedit
from flexedit.cli import main
from flexedit.data.world import World, write
from tests.comfyui.graph import Graph, free_shape, load
from tests.tiny import make_tiny_folder
from tools.comfyui.fetch import CARRIERS
from tools.comfyui.server import ComfyServer

EDITS = {  # of the world's samples, by number
    "removed": (0, "direct", "remove this"),
    "replaced": (1, "generate", "replace it by a cat"),
    "inserted": (2, "direct", "add the object in [pic2] here"),
}


def make(folder: Path) -> None:
    """Scenes, a model folder, and what the mini and that folder make of the scenes."""
    write(World(64, "heldout", seed=5), range(len(EDITS)), folder / "world")
    make_tiny_folder(folder / "tiny")
    for model in (None, folder / "tiny"):
        edit_all(folder, folder / pictures_of(model), model)


def pictures_of(model: Path | None) -> str:
    return "mini-pictures" if model is None else f"{model.name}-pictures"


def edit_all(made: Path, out: Path, model: Path | None = None) -> None:
    """Edits the scenes in ``made``, by the command line."""
    for name, (number, reply, instruction) in EDITS.items():
        scene, mask, subject = (
            str(made / "world" / f"{number:07d}_{kind}.png")
            for kind in ("scene", "mask", "subject")
        )
        options = ["--scene", scene, "--mask", mask, "--instruction", instruction, "--steps", "4"]
        options += ["--reply", reply, "--seed", str(number), "--out", str(out / f"{name}.png")]
        options += ["--subject", subject] if Path(subject).is_file() else []
        options += ["--model", str(model)] if model else []
        assert main(["edit", *options]) == 0


def differences(one: Path, other: Path) -> dict[str, int]:
    """The largest difference of each edit's pictures, in grey levels."""
    pictures = [
        {name: np.asarray(Image.open(folder / f"{name}.png")).astype(int) for name in EDITS}
        for folder in (one, other)
    ]
    return {name: int(abs(pictures[0][name] - pictures[1][name]).max()) for name in EDITS}


@pytest.fixture
def made() -> Path:
    return Path(os.environ["MADE"])


@pytest.fixture
def written() -> Path:
    return Path(os.environ["WRITTEN"])


def test_the_versions_are_those_of_the_set():
    wanted = json.loads(os.environ["WANTED"])
    assert {name: metadata.version(name) for name in wanted} == wanted


def test_every_module_can_be_imported():
    names = [module.name for module in pkgutil.walk_packages(flexedit.__path__, "flexedit.")]
    assert len(names) > 50
    for name in set(names) - {"flexedit.__main__"}:
        import_module(name)


def test_the_mini_edits_as_elsewhere(made, tmp_path):
    edit_all(made, tmp_path)
    assert max(differences(made / "mini-pictures", tmp_path).values()) <= 1


def test_a_model_folder_of_elsewhere_edits_as_there(made, tmp_path):
    edit_all(made, tmp_path, made / "tiny")
    assert max(differences(made / "tiny-pictures", tmp_path).values()) <= 1


def test_a_model_folder_is_written_and_trained(made, written):
    """For that environment to read"""
    make_tiny_folder(written / "tiny")
    edit_all(made, written / "tiny-pictures", written / "tiny")
    own = ["--data", made / "world", "--model", written / "tiny", "--out", written / "run"]
    how = ["--stages", "align,joint", "--steps", 2, "--batch", 2]
    assert main(["train", "own", *map(str, own + how)]) == 0
    edit_all(made, written / "own-pictures", written / "run" / "model")


@pytest.mark.parametrize("version", CARRIERS)
def test_a_graph_runs_in_comfyui(version, monkeypatch):
    monkeypatch.setenv("COMFYUI_VERSION", version)
    with ComfyServer() as comfy:
        graph = Graph()
        scene = load(graph, comfy, "scene.png", 64, 64)
        graph.save(graph.edit("flexedit-mini", scene[0], free_shape(graph, image=scene[0])))
        assert comfy.run(graph)
        assert "FlexEdit starts without" not in comfy.log
