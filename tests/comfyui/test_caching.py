"""What ComfyUI runs again when one thing of a graph changes, and what it remembers."""

import pytest

from tests.comfyui.graph import Graph, free_shape, load

SAMPLED = {"FlexEditKSampler", "VAEDecode", "FlexEditComposite", "SaveImage"}
CONDITIONED = SAMPLED | {"FlexEditMEAConditioning"}
READ = CONDITIONED | {"FlexEditMaskInterpreter", "FlexEditQFormerEmbed"}
AGAIN = {  # node, input, another value: what runs again
    ("FlexEditKSampler", "seed", 1): SAMPLED,
    ("FlexEditKSampler", "edit_cfg", 4.0): SAMPLED,
    ("FlexEditMEAConditioning", "subject_strength", 0.5): CONDITIONED,
    ("FlexEditMaskInterpreter", "instruction", "paint it blue"): READ,
    ("FlexEditResolveMask", "min_area", 3): {
        "FlexEditResolveMask",
        "FlexEditComposite",
        "SaveImage",
    },
    ("FlexEditComposite", "feather", 2): {"FlexEditComposite", "SaveImage"},
    ("FlexEditFreeShapeMask", "x", 0.4): READ | {"FlexEditFreeShapeMask", "FlexEditResolveMask"},
}


@pytest.fixture(scope="module")
def graph(comfy, model) -> Graph:
    """Scribble → object → edit → composite within the object"""
    graph = Graph()
    scene = load(graph, comfy, "caching.png", 32, 48)[0]
    scribble = free_shape(graph, image=scene)
    resolving = {"method": "classic", "candidate": 1, "fill_holes": True, "min_area": 1}
    resolving |= {"grow": 0, "feather": 0}
    whole = graph.add("FlexEditResolveMask", scene=scene, mask=scribble, **resolving)
    edited = graph.edit(model, scene, scribble)
    region = {"region": "mask", "grow": 0, "feather": 0}
    graph.save(
        graph.add("FlexEditComposite", scene=scene, edited=edited, mask=whole[0], **region)[0]
    )
    return graph


def ran(comfy, graph: Graph) -> set[str]:
    """The kinds of nodes that a run of the graph did not remember."""
    comfy.run(graph)
    (entry,) = comfy.get("history", max_items="1").json().values()
    (cached,) = (data for kind, data in entry["status"]["messages"] if kind == "execution_cached")
    return {node["class_type"] for key, node in graph.items() if key not in cached["nodes"]}


@pytest.mark.parametrize(("node", "name", "value"), AGAIN)
def test_a_change_runs_again_only_what_it_reaches(node, name, value, comfy, graph):
    ran(comfy, graph)
    assert ran(comfy, graph) == set()
    inputs = next(one["inputs"] for one in graph.values() if one["class_type"] == node)
    before, inputs[name] = inputs[name], value
    try:
        assert ran(comfy, graph) == AGAIN[node, name, value]
    finally:
        inputs[name] = before
