"""The subgraph blueprints: what the page offers as one node."""

import json

import pytest

from tests.comfyui import without_model
from tests.comfyui.graph import Graph
from tools import workflows

PATHS = workflows.BLUEPRINTS


@pytest.fixture(scope="module")
def object_info(comfy):
    return comfy.object_info()


def outer(path) -> dict:
    (node,) = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    return node


def test_the_server_offers_the_blueprint_under_a_name_for_people(comfy):
    offered = comfy.get("global_subgraphs").json()
    ours = {
        entry["name"]: key
        for key, entry in offered.items()
        if entry["info"]["node_pack"] == "custom_nodes.flexedit"
    }
    assert set(ours) == {path.stem for path in PATHS} == {"Edit with a scribble"}
    for path in PATHS:
        data = comfy.get(f"global_subgraphs/{ours[path.stem]}").json()["data"]
        assert json.loads(data) == json.loads(path.read_text(encoding="utf-8"))
        assert workflows.subgraph(path)["name"] == path.stem == outer(path)["title"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_node_shows_the_ends_and_widgets_of_what_is_inside(path):
    inside, node = workflows.subgraph(path), outer(path)
    assert node["type"] == inside["id"]
    for ends in ("inputs", "outputs"):
        assert [(one["name"], one["type"]) for one in node[ends]] == [
            (one["name"], one["type"]) for one in inside[ends]
        ]
    for one in node["inputs"]:  # what a person can write on the node itself
        assert ("widget" in one) == (one["type"] == "STRING")
    by_id = {str(one["id"]): one for one in inside["nodes"]}
    for node_id, widget in node["properties"]["proxyWidgets"]:
        names = {slot["name"] for slot in by_id[node_id]["inputs"] if "widget" in slot}
        assert widget in names | {"control_after_generate"}


def wired(path, object_info) -> dict:
    """What the page sends for the node, fed by a picture, a drawing and a checkpoint."""
    graph = Graph()
    scene = graph.add("LoadImage", image="disc.png")
    where = graph.add("FlexEditFreeShapeMask", **drawn(object_info), image=scene[0])
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="any.safetensors")
    ends = {"scene": scene[0], "scribble": where[0]}
    ends |= {"model": checkpoint[0], "clip": checkpoint[1], "vae": checkpoint[2]}
    inside = with_prefix(workflows.subgraph(path), "9:")
    outside = dict(enumerate(ends.get(one["name"]) for one in inside["inputs"]))
    graph |= workflows.to_api(inside, object_info, outside)
    image = next(link for link in inside["links"] if link[3:5] == [workflows.OUTPUTS, 0])
    graph.save(image[1:3])
    return graph


def with_prefix(inside: dict, prefix: str) -> dict:
    """The ids as the page sends them: those of a node in node 9 begin with "9:"."""
    links = [
        [key, source if source == workflows.INPUTS else f"{prefix}{source}", *rest]
        for key, source, *rest in inside["links"]
    ]
    nodes = [node | {"id": f"{prefix}{node['id']}"} for node in inside["nodes"]]
    return inside | {"links": links, "nodes": nodes}


def drawn(object_info) -> dict:
    specs = workflows.input_specs(object_info["FlexEditFreeShapeMask"])
    return {name: spec[1]["default"] for name, spec in specs if "default" in spec[1]}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_only_the_checkpoint_is_missing(path, comfy, object_info):
    comfy.upload_image(without_model.disc_on_grass(), "disc.png")
    prompt = wired(path, object_info)
    refused = comfy.post("prompt", json={"prompt": prompt}).json()["node_errors"]
    (refusal,) = refused.values()
    assert refusal["class_type"] == "CheckpointLoaderSimple"
    assert [error["type"] for error in refusal["errors"]] == ["value_not_in_list"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_all_but_the_object_stays_bit_for_bit(path, comfy, object_info):
    """The picture's negative stands in for the edit."""
    without_model.check_composite(comfy, wired(path, object_info))
