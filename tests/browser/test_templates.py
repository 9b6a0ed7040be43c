"""The page opens every workflow that we ship."""

import pytest

from tests.browser.editor import RENDERERS, Editor, scene
from tests.comfyui import workflows

# Of all nodes, also those inside subgraphs: the types that the page does not know.
UNKNOWN = """() => {
  const graphs = [app.graph, ...app.graph.subgraphs.values()];
  const types = graphs.flatMap((graph) => graph.nodes.map((node) => node.type));
  return types.filter((type) => !(type in LiteGraph.registered_node_types));
}"""
# Widgets whose text, number or choice is not what the workflow says.
CHANGED = """(saved) => saved.nodes.flatMap((node) => {
  const now = app.graph.getNodeById(node.id).serialize();
  const isSame = JSON.stringify(now.widgets_values ?? []) === JSON.stringify(node.widgets_values);
  return isSame ? [] : [{ node: node.type, values: now.widgets_values }];
})"""


def test_the_template_browser_lists_what_we_ship(comfy):
    listed = comfy.get("workflow_templates").json()["flexedit"]
    assert sorted(listed) == workflows.NAMES


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", workflows.NAMES)
def test_the_page_opens_it_as_it_is(name, renderer, editor: Editor):
    template = editor.comfy.get(f"api/workflow_templates/flexedit/{name}.json").json()
    for node in template["nodes"]:
        if node["type"] == "LoadImage":
            editor.comfy.upload_image(scene(), node["widgets_values"][0])
    editor.render(renderer)
    editor.load(template)
    editor.wait(f"app.graph.nodes.length === {len(template['nodes'])}")
    assert editor.evaluate(UNKNOWN) == []
    assert editor.evaluate(CHANGED, template) == []
    for complaint in ("Missing Node Types", "Workflow Validation"):
        assert editor.page.get_by_text(complaint).count() == 0
