"""What the interpreter sends to the page is what it puts out."""

import pytest

from tests.comfyui.graph import Graph, free_shape, load


@pytest.mark.parametrize("num_pictures", [1, 2])
def test_the_page_gets_the_reply_and_label_of_every_picture(num_pictures, comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    scenes = graph.add("RepeatImageBatch", image=scene[0], amount=num_pictures)
    _, interpreter = graph.interpret(model, scenes[0], free_shape(graph), reply="generate")
    texts = [graph.add("PreviewAny", source=interpreter[output]) for output in (1, 2)]
    outputs = comfy.run(graph)
    sent = outputs[interpreter.node_id]["flexedit_reply"]
    assert len(sent) == num_pictures
    for key, text in zip(("reply", "label"), texts, strict=True):
        assert outputs[text.node_id]["text"] == ["\n".join(one[key] for one in sent)]
    assert all(one["reply"] for one in sent)


def test_the_page_is_told_that_a_picture_is_far_too_large_for_the_model(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 200, 96)
    _, interpreter = graph.interpret(model, scene[0], free_shape(graph))
    (said,) = comfy.run(graph)[interpreter.node_id]["flexedit_reply"]
    assert "learned from 64×64" in said["hint"] and "FlexEdit Crop" in said["hint"]


def test_the_interpreter_needs_no_other_node_to_run(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    _, interpreter = graph.interpret(model, scene[0], free_shape(graph))
    assert comfy.run(graph)[interpreter.node_id]["flexedit_reply"] == [{"reply": "", "label": ""}]
