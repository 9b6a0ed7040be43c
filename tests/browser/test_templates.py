"""The page opens every workflow that we ship."""

import json
from collections.abc import Iterator

import pytest

from tools import workflows
from tools.comfyui.editor import RENDERERS, REPORTS, Editor, Node, scene, workflow

# Of all nodes, also those inside subgraphs: the types that the page does not know.
UNKNOWN = """() => {
  const graphs = [app.graph, ...app.graph.subgraphs.values()];
  const types = graphs.flatMap((graph) => graph.nodes.map((node) => node.type));
  return types.filter((type) => !(type in LiteGraph.registered_node_types));
}"""
# Widgets whose text, number or choice is not what the workflow says; a newer core may have more.
CHANGED = """(saved) => saved.nodes.flatMap((node) => {
  const values = app.graph.getNodeById(node.id).serialize().widgets_values ?? [];
  const end = node.type.startsWith("FlexEdit") ? undefined : node.widgets_values.length;
  const isSame = JSON.stringify(values.slice(0, end)) === JSON.stringify(node.widgets_values);
  return isSame ? [] : [{ node: node.type, values }];
})"""


def num_complaints(editor: Editor) -> int:
    """How many the page shows about what was loaded last."""
    editor.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    return editor.page.locator(REPORTS).locator("visible=true").count()


@pytest.fixture
def page(editor: Editor) -> Iterator[Editor]:
    """The page, which does not ask for models that are not on this machine."""
    setting = "Comfy.Workflow.ShowMissingModelsWarning"
    editor.evaluate(f"app.ui.settings.setSettingValue('{setting}', false)")
    yield editor
    editor.evaluate(f"app.ui.settings.setSettingValue('{setting}', true)")


def test_the_template_browser_lists_what_we_ship(comfy):
    listed = comfy.get("workflow_templates").json()["flexedit"]
    assert sorted(listed) == [path.stem for path in workflows.TEMPLATES.values()]


def show(page: Editor, graph: dict) -> None:
    for node in graph["nodes"]:
        if node["type"] == "LoadImage":
            page.comfy.upload_image(scene(), node["widgets_values"][0])
    page.evaluate("app.refreshComboInNodes()")  # a page that was open before does not know them
    page.load(graph)
    page.wait(f"app.graph.nodes.length === {len(graph['nodes'])}")


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_page_opens_it_as_it_is(name, renderer, page):
    file = workflows.TEMPLATES[name].name
    template = page.comfy.get(f"api/workflow_templates/flexedit/{file}").json()
    page.render(renderer)
    show(page, template)
    assert page.evaluate(UNKNOWN) == []
    assert page.evaluate(CHANGED, template) == []
    if page.version < (1, 47) or not name.startswith("scribble_to_"):  # newer ones miss models
        assert num_complaints(page) == 0


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("path", workflows.BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprints_node_shows_the_values_that_are_inside(path, renderer, page):
    blueprint, inside = json.loads(path.read_text(encoding="utf-8")), workflows.subgraph(path)
    values = workflows.to_api(inside, page.comfy.object_info())
    wanted = {
        name: values[node]["inputs"][name]
        for node, name in blueprint["nodes"][0]["properties"]["proxyWidgets"]
        if name != "control_after_generate"  # newer pages show it on the number's own row
    }
    page.render(renderer)
    page.load(blueprint)
    page.wait("app.graph.nodes.length === 1")
    found = dict(page.evaluate("app.graph.nodes[0].widgets.map((it) => [it.name, it.value])"))
    found = {name.split(": ")[-1]: value for name, value in found.items()}  # older ones: 6: seed
    assert {name: found[name] for name in wanted} == wanted
    texts = [one["inputs"]["text"] for one in values.values() if "text" in one["inputs"]]
    assert [found["what to put there"], found["what to avoid"]] == texts


def test_the_page_complains_of_a_node_that_it_does_not_know(page):
    page.load(workflow([Node("NoSuchNode", (60, 120), (270, 100))], page.next_id()))
    assert page.evaluate(UNKNOWN) == ["NoSuchNode"]
    page.until(lambda: num_complaints(page) == 1)
    page.close_report()


SENT = "app.graphToPrompt().then(({ output }) => output)"
BYPASS = """(kind) => {
  for (const node of app.graph.nodes) if (node.type === kind) node.mode = LiteGraph.BYPASS ?? 4;
}"""


def as_it_was_saved(graph: dict) -> dict:
    """A graph from when Composite's first input was the scene."""
    (composite,) = (node for node in graph["nodes"] if node["type"] == "FlexEditComposite")
    composite["inputs"][:2] = reversed(composite["inputs"][:2])
    for link in graph["links"]:
        if link[3] == composite["id"] and link[4] < 2:
            link[4] = 1 - link[4]
    return graph


@pytest.mark.parametrize("saved", [lambda graph: graph, as_it_was_saved], ids=["today", "before"])
def test_a_bypassed_composite_gives_the_decoded_edit(saved, page):
    graph = saved(workflows.browser_workflow("edit_one_picture"))
    wanted = workflows.api_workflow("edit_one_picture")
    composite = workflows.node_of(wanted, "FlexEditComposite")
    show(page, graph)
    inputs = page.evaluate(SENT)[composite]["inputs"]
    for name in ("scene", "edited", "mask"):
        assert inputs[name] == wanted[composite]["inputs"][name]
    page.evaluate(BYPASS, "FlexEditComposite")
    sent = page.evaluate(SENT)
    source, _ = sent[workflows.node_of(sent, "SaveImage")]["inputs"]["images"]
    assert sent[source]["class_type"] == "VAEDecode"


def test_a_bypassed_interpreter_shows_the_scene(page):
    show(page, workflows.browser_workflow("insert_a_subject"))
    page.evaluate(BYPASS, "FlexEditMaskInterpreter")
    sent = page.evaluate(SENT)
    where = sent[workflows.node_of(sent, "FlexEditFreeShapeMask")]
    shown = sent[workflows.node_of(sent, "PreviewImage")]["inputs"]["images"]
    assert shown == where["inputs"]["image"]
