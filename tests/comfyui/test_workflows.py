import pytest

from flexedit.checkpoint import EMBEDDED
from tests.comfyui import workflows
from tests.comfyui.graph import picture

SCENES = {"Scene": picture(64, 80, channels=4), "Subject": picture(48, 48, seed=1)}


@pytest.fixture(scope="module")
def object_info(comfy):
    return comfy.object_info()


def prepared(comfy, name: str, model: str) -> dict:
    """The API workflow with our pictures in its LoadImage nodes, and a model that is fast."""
    prompt = workflows.api_workflow(name)
    for node in prompt.values():
        inputs, title = node["inputs"], node["_meta"]["title"]
        if node["class_type"] == "LoadImage":
            inputs["image"] = comfy.upload_image(SCENES[title], f"{title}.png")
        if node["class_type"] == "FlexEditLoader":
            inputs["model"] = model
        if "steps" in inputs:
            inputs["steps"] = 2
    return prompt


def saved(name: str) -> str:
    nodes = workflows.api_workflow(name).items()
    return next(node_id for node_id, node in nodes if node["class_type"] == "SaveImage")


def test_there_are_workflows_for_the_four_jobs():
    jobs = {"edit_one_picture", "insert_a_subject", "large_photo", "what_does_my_scribble_mean"}
    assert jobs <= set(workflows.NAMES)


@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_browser_workflow_names_existing_nodes_and_inputs(name, object_info):
    for node in workflows.nodes(workflows.browser_workflow(name)):
        info = object_info[node["type"]]
        specs = dict(workflows.input_specs(info))
        assert [slot["name"] for slot in node["inputs"] if slot["name"] not in specs] == []
        assert [slot["type"] for slot in node["outputs"]] == info["output"]
        assert [slot["name"] for slot in node["outputs"]] == info["output_name"]


@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_links_of_the_browser_workflow_join_what_both_ends_name(name):
    workflow = workflows.browser_workflow(name)
    by_id = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    for key, source, output, target, slot, kind in links.values():
        assert key in by_id[source]["outputs"][output]["links"]
        assert by_id[source]["outputs"][output]["type"] == kind
        assert by_id[target]["inputs"][slot]["link"] == key
    ends = [slot["link"] for node in by_id.values() for slot in node["inputs"]]
    assert sorted(end for end in ends if end is not None) == sorted(links)
    assert workflow["last_link_id"] == max(links) and workflow["last_node_id"] == max(by_id)


@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_api_workflow_is_what_the_page_would_send(name, object_info):
    sent = workflows.to_api(workflows.browser_workflow(name), object_info)
    assert workflows.api_workflow(name) == sent


@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_workflow_starts_with_the_embedded_model(name):
    inputs = [node["inputs"] for node in workflows.api_workflow(name).values()]
    assert [one["model"] for one in inputs if "precision" in one] == [EMBEDDED]


@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_workflow_runs(name, comfy, model):
    outputs = comfy.run(prepared(comfy, name, model))
    for node_id, node in workflows.api_workflow(name).items():
        if node["class_type"] in ("SaveImage", "PreviewImage", "MaskPreview"):
            assert len(outputs[node_id]["images"]) == 1
        if node["class_type"] == "PreviewAny":
            assert len(outputs[node_id]["text"]) == 1


@pytest.mark.parametrize("name", ["edit_one_picture", "insert_a_subject", "large_photo"])
def test_the_result_has_the_scenes_size(name, comfy, model):
    outputs = comfy.run(prepared(comfy, name, model))
    assert comfy.fetch_image(outputs[saved(name)]["images"][0]).size == SCENES["Scene"].size
