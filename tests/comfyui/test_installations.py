"""A ComfyUI as people have it: without some packages, with folders that cannot be read, the pack's
own folder under another name. What can work works, and the rest says why.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.comfyui import without_model
from tests.comfyui.graph import Graph, free_shape, load
from tools import workflows
from tools.comfyui.fetch import PACK
from tools.comfyui.server import ComfyServer, PromptFailed

NODES = set(json.loads((PACK / "tests/comfyui/object_info.json").read_text()))
# root enters every folder, unless it lets go of these capabilities
AS_OTHERS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.getuid() == 0 else ()


def nodes_of(comfy: ComfyServer) -> set[str]:
    return NODES & set(comfy.object_info())


def edit(comfy: ComfyServer) -> None:
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 64, 64)
    graph.save(graph.edit("flexedit-mini", scene[0], free_shape(graph, image=scene[0])))
    comfy.run(graph)


def edit_by_hand(comfy: ComfyServer) -> None:
    """Drawing, resolving, crop and composite."""
    without_model.check_composite(comfy, workflows.api_workflow("scribble_to_sd_inpainting"))


@pytest.mark.parametrize("missing", ["transformers", "diffusers"])
def test_without_a_model_library_all_but_models_works(missing):
    with ComfyServer(hidden=[missing]) as comfy:
        assert nodes_of(comfy) == NODES
        edit_by_hand(comfy)
        with pytest.raises(PromptFailed) as failure:
            edit(comfy)
        said = f"{missing} is not installed, but FlexEdit needs {missing}>="
        assert said in failure.value.message
        assert "\n" not in failure.value.message
        assert comfy.log.count(f"FlexEdit: {said}") == 1  # when it started


def test_without_what_only_training_needs_the_mini_edits():
    with ComfyServer(hidden=["peft", "accelerate", "timm"], pack="flexedit.v1-main") as comfy:
        assert nodes_of(comfy) == NODES
        edit(comfy)
        (script,) = scripts(comfy)
        assert "registerExtension" in comfy.get(script).text
        assert "Rename it" not in comfy.log


def test_a_folder_whose_name_has_no_place_in_an_address_is_warned_of():
    with ComfyServer(pack="flex edit ü") as comfy:
        assert nodes_of(comfy) == NODES
        edit_by_hand(comfy)
        assert "cannot serve scripts from a folder of the name 'flex edit ü'. Rename" in comfy.log


def scripts(comfy: ComfyServer) -> list[str]:
    return [one[1:] for one in comfy.get("extensions").json() if one.endswith("/flexedit.js")]


def test_a_node_that_cannot_be_imported_leaves_the_others_alone():
    with ComfyServer(hidden=["einops"]) as comfy:
        left_out = NODES - nodes_of(comfy)
        assert "FlexEditLoader" in left_out
        edit_by_hand(comfy)
        assert comfy.log.count("FlexEdit starts without the node") == len(left_out)
        assert "einops is not installed, but FlexEdit needs einops>=" in comfy.log


SPOILT = ("locked", "loop", "dead")


def spoil(place: Path) -> None:
    """Puts things into a folder of models that are not models."""
    (place / "locked").mkdir(parents=True)
    (place / "locked").chmod(0)
    (place / "loop").symlink_to(place / "loop")
    (place / "dead").symlink_to(place / "nowhere")
    (place / "file").write_text("no folder")
    for name in ("config.json", "flexedit.json"):
        (place / "folder" / name).mkdir(parents=True)
        (place / "nested").mkdir(exist_ok=True)
        (place / "nested" / name).write_text("[" * 100_000)


class SpoiltServer(ComfyServer):
    """A ComfyUI whose model folders hold spoilt ones, where `sams` is a file and no folder, and
    whose user folder is read-only.
    """

    def _prepare_folder(self) -> None:
        super()._prepare_folder()
        for name in ("flexedit", "LLM"):
            spoil(self.folder / "models" / name)
        (self.folder / "models" / "sams").write_text("no folder")
        shutil.copytree(
            PACK / "flexedit/pretrained/flexedit-mini", self.folder / "models/flexedit/fine"
        )
        self.link_model("LLM/maker/fine", PACK / "flexedit/pretrained/flexedit-mini/vllm")
        (self.folder / "user").chmod(0o555)

    def stop(self) -> None:
        for locked in self.folder.glob("models/*/locked"):
            locked.chmod(0o755)
        (self.folder / "user").chmod(0o755)
        super().stop()


def test_folders_that_cannot_be_read_are_passed_over():
    with SpoiltServer(launch_with=AS_OTHERS) as comfy:
        assert nodes_of(comfy) == NODES
        for node, name in (("FlexEditLoader", "fine"), ("FlexEditVLLMLoader", "maker/fine")):
            assert name in str(comfy.object_info(node)["input"]["required"]["model"])
        edit(comfy)
        models = comfy.folder / "models"
        spoilt = [models / place / name for place in ("flexedit", "LLM") for name in SPOILT]
        for path in [models / "sams", *spoilt]:
            assert comfy.log.count(f"passes over {path}:") == 1, path
