import itertools
import json
from pathlib import PurePosixPath
from urllib.parse import urlparse

import pytest
from PIL import Image

from flexedit.model_folder import EMBEDDED
from flexedit.systems import PRESETS
from tests.comfyui import without_model
from tests.comfyui.graph import picture
from tests.tiny import make_tiny_system
from tools import workflows
from tools.workflows import node_of

SCENES = {
    "Scene": picture(64, 80, channels=4),
    "Subject": picture(48, 48, seed=1),
    "Mask": picture(64, 80, seed=2),
}
OWN = [name for name in workflows.NAMES if not name.startswith("scribble_to_")]  # by our models
LISTS = ["edits_from_a_list", "photos_from_a_list"]  # in the API format alone
OTHERS = [name for name in workflows.NAMES if name not in OWN]  # by models that people have
GRAPHS = {name: workflows.browser_workflow(name) for name in workflows.NAMES}
GRAPHS |= {path.stem: workflows.subgraph(path) for path in workflows.BLUEPRINTS}
TITLE = 30  # pixels that a node's title takes above it


@pytest.fixture(scope="module")
def object_info(comfy):
    return comfy.object_info()


def prepared(comfy, name: str, model: str) -> dict:
    """The API workflow with our pictures in its LoadImage nodes, and a model that is fast."""
    prompt = workflows.api_workflow(name)
    for node in prompt.values():
        inputs, title = node["inputs"], node["_meta"]["title"]
        if node["class_type"] in ("LoadImage", "LoadImageMask"):
            inputs["image"] = comfy.upload_image(SCENES[title], f"{title}.png")
        if node["class_type"] == "FlexEditLoader":
            inputs["model"] = model
        if "steps" in inputs:
            inputs["steps"] = 2
    return prompt


def model_files(node: dict) -> list[dict]:
    return node["properties"].get("models", [])


@pytest.mark.parametrize("name", GRAPHS)
def test_its_nodes_are_the_cores_or_ours_with_inputs_and_outputs_that_they_have(name, object_info):
    for node in workflows.nodes(GRAPHS[name]):
        info = object_info[node["type"]]
        is_ours, module = node["type"].startswith("FlexEdit"), info["python_module"]
        assert module == "custom_nodes.flexedit" if is_ours else not module.startswith("custom")
        specs = dict(workflows.input_specs(info))
        assert [slot["name"] for slot in node["inputs"] if slot["name"] not in specs] == []
        outputs = list(zip(info["output_name"], info["output"], strict=True))
        if not is_ours:  # a newer ComfyUI may have more of them
            outputs = outputs[: len(node["outputs"])]
        assert [(slot["name"], slot["type"]) for slot in node["outputs"]] == outputs


@pytest.mark.parametrize("name", workflows.NAMES)
def test_every_value_is_one_that_its_input_takes(name, object_info):
    given = {
        entry["name"]
        for node in workflows.nodes(workflows.browser_workflow(name))
        for entry in model_files(node)
    }
    for node in workflows.api_workflow(name).values():
        for key, spec in workflows.input_specs(object_info[node["class_type"]]):
            value = node["inputs"].get(key)
            options = spec[1] if len(spec) > 1 else {}
            if value is None or isinstance(value, list) or options.get("image_upload"):
                continue
            if spec[0] == "COMBO" or isinstance(spec[0], list):
                choices = options.get("options", spec[0])
                assert value in given or value in choices, f"{node['class_type']}.{key}: {value}"
            if spec[0] in ("INT", "FLOAT"):
                assert options.get("min", value) <= value <= options.get("max", value)


@pytest.mark.parametrize("name", GRAPHS)
def test_its_links_join_what_both_ends_name(name):
    graph = GRAPHS[name]
    by_id = {node["id"]: node for node in graph["nodes"]}
    for key, source, output, target, slot, kind in graph["links"]:
        is_inner, is_outer = source == workflows.INPUTS, target == workflows.OUTPUTS
        start = (graph["inputs"] if is_inner else by_id[source]["outputs"])[output]
        end = (graph["outputs"] if is_outer else by_id[target]["inputs"])[slot]
        assert key in start["linkIds" if is_inner else "links"] and start["type"] == kind
        assert [key] == (end["linkIds"] if is_outer else [end["link"]])
        assert end["type"] in (kind, "*")
    ends = {slot["link"] for node in by_id.values() for slot in node["inputs"]} - {None}
    assert ends <= {link[0] for link in graph["links"]}


@pytest.mark.parametrize("name", workflows.NAMES)
def test_what_a_person_adds_gets_a_new_number(name):
    workflow = workflows.browser_workflow(name)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])
    assert workflow["last_node_id"] == max(node["id"] for node in workflow["nodes"])


@pytest.mark.parametrize("name", workflows.NAMES)
def test_every_node_lies_in_a_titled_group_and_on_no_other(name):
    workflow = workflows.browser_workflow(name)
    for node in workflow["nodes"]:
        assert any(holds(group["bounding"], box(node)) for group in workflow["groups"])
    for one, other in itertools.combinations(map(box, workflow["nodes"]), 2):
        assert not meet(one, other)
    for one, other in itertools.combinations(workflow["groups"], 2):
        assert not meet(one["bounding"], other["bounding"])
    assert all(group["title"] for group in workflow["groups"])


def box(node: dict) -> list[float]:
    """left, top, width, height with the title"""
    (x, y), (width, height) = node["pos"], node["size"]
    return [x, y - TITLE, width, height + TITLE]


def holds(outer: list[float], inner: list[float]) -> bool:
    starts = all(inner[axis] >= outer[axis] for axis in (0, 1))
    return starts and all(
        inner[axis] + inner[axis + 2] <= outer[axis] + outer[axis + 2] for axis in (0, 1)
    )


def meet(one: list[float], other: list[float]) -> bool:
    return all(
        one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2]
        for axis in (0, 1)
    )


@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_api_workflow_is_what_the_page_would_send(name, object_info):
    sent = workflows.to_api(workflows.browser_workflow(name), object_info)
    assert workflows.api_workflow(name) == sent


@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_browser_shows_a_picture_of_the_workflow(name):
    path = workflows.TEMPLATES[name].with_suffix(".jpg")
    with Image.open(path) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.width == thumbnail.height and 256 <= thumbnail.width <= 512
    assert path.stat().st_size < 60_000


@pytest.mark.parametrize("name", workflows.NAMES)
def test_one_draws_on_the_scene_itself(name):
    prompt = workflows.api_workflow(name)
    where = prompt[node_of(prompt, "FlexEditFreeShapeMask")]["inputs"]
    assert where["kind"] == "drawn" and json.loads(where["strokes"])["strokes"]
    assert prompt[where["image"][0]]["_meta"]["title"] == "Scene"


@pytest.mark.parametrize("name", OWN)
def test_the_workflow_starts_with_the_embedded_model(name):
    inputs = [node["inputs"] for node in workflows.api_workflow(name).values()]
    assert [one["model"] for one in inputs if "precision" in one] == [EMBEDDED]


@pytest.fixture(scope="module", params=PRESETS)
def system(request, comfy, tmp_path_factory) -> str:
    """The name of a small model of each system."""
    folder = make_tiny_system(request.param, tmp_path_factory.mktemp("systems") / request.param)
    comfy.link_model(f"flexedit/{folder.path.name}-of-workflows", folder.path)
    return f"{folder.path.name}-of-workflows"


@pytest.mark.parametrize("name", [*OWN, *LISTS])
def test_the_workflow_runs_with_every_system(name, system, comfy):
    outputs = comfy.run(prepared(comfy, name, system))
    for node_id, node in workflows.api_workflow(name).items():
        if node["class_type"] in ("SaveImage", "PreviewImage", "MaskPreview"):
            (entry,) = outputs[node_id]["images"]
        if node["class_type"] == "SaveImage":
            assert comfy.fetch_image(entry).size == SCENES["Scene"].size
        if node["class_type"] == "PreviewAny":
            assert len(outputs[node_id]["text"]) == 1
        if node["class_type"] == "FlexEditMaskInterpreter":
            hint = outputs[node_id]["flexedit_reply"][0].get("hint", "")
            has_subject = "subject" in node["inputs"]
            is_used = not system.startswith("instructpix2pix")
            assert ("subject is not used" in hint) == (has_subject and not is_used)


@pytest.mark.parametrize("name", OTHERS)
def test_only_the_named_model_files_are_missing(name, comfy):
    prompt = workflows.api_workflow(name)
    prompt[node_of(prompt, "LoadImage")]["inputs"]["image"] = comfy.upload_image(
        SCENES["Scene"], "Scene.png"
    )
    files = {
        str(node["id"]): {entry["name"] for entry in model_files(node)}
        for node in workflows.nodes(workflows.browser_workflow(name))
        if model_files(node)
    }
    answer = comfy.post("prompt", json={"prompt": prompt}).json()
    assert set(answer["node_errors"]) == set(files)
    for node_id, refusal in answer["node_errors"].items():
        assert {error["type"] for error in refusal["errors"]} == {"value_not_in_list"}
        missing = {error["extra_info"]["received_value"] for error in refusal["errors"]}
        assert missing == files[node_id]


@pytest.mark.parametrize("name", OTHERS)
def test_the_graph_says_where_its_model_files_are_and_go(name):
    workflow = workflows.browser_workflow(name)
    notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    text = "".join(node["widgets_values"][0] for node in notes)
    entries = [entry for node in workflows.nodes(workflow) for entry in model_files(node)]
    assert entries
    for entry in entries:
        assert PurePosixPath(urlparse(entry["url"]).path).name == entry["name"]
        assert f"[{entry['name']}]({entry['url']})" in text
        assert f"models/{entry['directory']}" in text


@pytest.mark.parametrize("name", OTHERS)
def test_all_but_the_object_stays_bit_for_bit(name, comfy):
    """The picture's negative stands in for the edit, as no such model can be had here."""
    without_model.check_composite(comfy, workflows.api_workflow(name))
