import numpy as np
import pytest

from flexedit import masks
from tests.comfyui.graph import OPAQUE, SHAPE, Graph, free_shape, load, pictures
from tools import object_info
from tools.workflows import drawing, input_specs


@pytest.mark.parametrize("node_id", object_info.recorded())
def test_every_node_explains_itself_and_has_a_page_of_help(node_id, comfy):
    info = comfy.object_info(node_id)
    assert info["category"] == "FlexEdit" and info["display_name"].startswith("FlexEdit ")
    assert info["description"]
    for name, spec in input_specs(info):
        assert spec[1].get("tooltip"), f"{node_id}.{name} has no tooltip"
    assert comfy.get(f"extensions/flexedit/docs/{node_id}.md").text.startswith("# FlexEdit ")


@pytest.mark.parametrize("kind", masks.KINDS)
def test_a_free_shape_is_what_the_library_draws(kind, comfy):
    graph = Graph()
    saved = graph.save_mask(free_shape(graph, kind))
    (drawn,) = pictures(comfy, comfy.run(graph), saved)
    shape = {name: value for name, value in SHAPE.items() if not name.startswith("image_")}
    assert np.array_equal(drawn[..., 0] > 0, masks.draw(kind, 32, 48, **shape).numpy() > 0)


@pytest.mark.parametrize("kind", ["circle", "drawn"])
def test_a_free_shape_on_pictures_has_their_size_and_number(kind, comfy):
    graph = Graph()
    images = graph.add("EmptyImage", width=30, height=20, batch_size=3, color=0)
    strokes = drawing([(0.1, 0.2), (0.8, 0.9)])
    saved = graph.save_mask(free_shape(graph, kind, image=images[0], strokes=strokes))
    shapes = pictures(comfy, comfy.run(graph), saved)
    assert [one.shape[:2] for one in shapes] == [(20, 30)] * 3


def test_a_random_walk_stays_near_its_object(comfy):
    graph = Graph()
    images = graph.add("EmptyImage", width=64, height=64, batch_size=2, color=0)
    whole = free_shape(graph, image_width=64, image_height=64)
    walk = free_shape(graph, masks.RANDOM_WALK, image=images[0], mask=whole)
    object_id, walk_id = graph.save_mask(whole), graph.save_mask(walk)
    outputs = comfy.run(graph)
    (covered,) = pictures(comfy, outputs, object_id)
    first, second = pictures(comfy, outputs, walk_id)
    assert 0.1 < (first > 0)[covered > 0].mean() < 0.95
    assert (first > 0)[covered == 0].mean() < 0.1
    assert (first != second).any()


@pytest.mark.parametrize("size", [(37, 53), (64, 64), (1, 1), (1, 50)])
def test_an_edit_comes_back_in_the_scenes_exact_size(size, comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "odd.png", *size)
    circle = free_shape(graph, image=scene[0])
    edited = graph.edit(model, scene[0], circle)
    result = graph.add("FlexEditComposite", scene=scene[0], edited=edited, mask=circle, **OPAQUE)
    saved = graph.save(result[0])
    assert pictures(comfy, comfy.run(graph), saved)[0].shape[:2] == size


def test_a_random_walk_without_a_picture_has_the_size_of_its_object(comfy):
    graph = Graph()
    images = graph.add("EmptyImage", width=96, height=40, batch_size=2, color=0)
    whole = free_shape(graph, image=images[0])
    saved = graph.save_mask(free_shape(graph, masks.RANDOM_WALK, mask=whole))
    walks = pictures(comfy, comfy.run(graph), saved)
    assert [one.shape[:2] for one in walks] == [(40, 96)] * 2


def test_a_painted_object_is_read_back_whole(comfy):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 64, 64)
    circle = free_shape(graph, shape_width=0.5, shape_height=0.5, image=scene[0])
    red = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0xFF0000)
    painted = graph.add("FlexEditComposite", scene=scene[0], edited=red[0], mask=circle, **OPAQUE)
    read = graph.add("FlexEditReadPaintedMask", scene=scene[0], painted=painted[0])
    ids = [graph.save_mask(circle), graph.save_mask(read[0])]
    outputs = comfy.run(graph)
    truth, found = (pictures(comfy, outputs, node_id)[0][..., 0] > 0 for node_id in ids)
    assert (truth & found).sum() > 0.9 * (truth | found).sum()


def test_the_interpreter_shows_the_mask_in_white(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    circle = free_shape(graph)
    _, interpreter = graph.interpret(model, scene[0], circle, task="ask", instruction="")
    ids = [graph.save(scene[0]), graph.save_mask(circle), graph.save(interpreter[3])]
    text = graph.add("PreviewAny", source=interpreter[1]).node_id
    outputs = comfy.run(graph)
    before, mask, marked = (pictures(comfy, outputs, node_id)[0].astype(int) for node_id in ids)
    expected = np.where(mask > 0, (before + 255) / 2, before)
    assert np.abs(marked - expected).max() <= 1
    assert isinstance(outputs[text]["text"][0], str)


def test_a_batch_of_scenes_gives_a_batch_of_edits(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    batch = graph.add("RepeatImageBatch", image=scene[0], amount=3)
    saved = graph.save(graph.edit(model, batch[0], free_shape(graph)))
    assert len(pictures(comfy, comfy.run(graph), saved)) == 3


def test_one_scene_serves_a_batch_of_subjects(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    subject = load(graph, comfy, "subject.png", 20, 20, seed=1)
    subjects = graph.add("RepeatImageBatch", image=subject[0], amount=2)
    saved = graph.save(graph.edit(model, scene[0], free_shape(graph), subject=subjects[0]))
    assert len(pictures(comfy, comfy.run(graph), saved)) == 2


def test_without_a_mask_the_instruction_is_about_the_whole_picture(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    saved = graph.save(graph.edit(model, scene[0], instruction="make it darker"))
    assert len(pictures(comfy, comfy.run(graph), saved)) == 1


# What the interpreter sends to the page


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
