"""The resolver in a running ComfyUI."""

import json

import numpy as np
import pytest
from PIL import Image

from flexedit.resolve.resolver import resolve
from tests.comfyui.graph import Graph, free_shape, load, pictures
from tests.resolve.scenes import HEIGHT, LEFT, RIGHT, WIDTH, disc, scene
from tools.comfyui.server import PromptFailed

SETTINGS = {"candidate": 1, "fill_holes": True, "min_area": 64, "grow": 0, "feather": 0}


def resolver(graph: Graph, comfy, scribble, method: str = "classic", **inputs):
    pixels = (scene().movedim(0, -1) * 255).round().byte().numpy()
    picture = graph.add("LoadImage", image=comfy.upload_image(Image.fromarray(pixels), "discs.png"))
    mask = Image.fromarray((scribble.numpy() * 255).astype(np.uint8))
    drawn = graph.add(
        "LoadImageMask", image=comfy.upload_image(mask.convert("RGB"), "drawn.png"), channel="red"
    )
    return graph.add(
        "FlexEditResolveMask",
        **({"scene": picture[0], "mask": drawn[0], "method": method} | SETTINGS | inputs),
    )


def run(comfy, graph: Graph, node) -> tuple[np.ndarray, dict, dict]:
    """→ the mask (H, W) bool, what the JSON says of the first picture, and the node's own output"""
    saved = graph.save_mask(node[0])
    text = graph.add("PreviewAny", source=node[2]).node_id
    outputs = comfy.run(graph)
    mask = pictures(comfy, outputs, saved)[0][..., 0] > 127
    return mask, json.loads(outputs[text]["text"][0])[0], outputs[node.node_id]


# In a graph


def test_a_scribble_becomes_the_mask_that_the_library_gives(comfy):
    graph = Graph()
    node = resolver(graph, comfy, disc(LEFT, 14))
    mask, report, shown = run(comfy, graph, node)
    expected = resolve((scene() * 255).round()[None] / 255, disc(LEFT, 14)[None])
    assert np.array_equal(mask, expected.mask[0].numpy() > 0)
    assert report == expected.report()[0] and not report["ambiguous"]
    assert not shown["flexedit_resolution"][0]["ambiguous"]


def test_the_page_gets_the_scene_and_a_picture_of_each_candidate(comfy):
    graph = Graph()
    node = resolver(graph, comfy, disc(LEFT, 14) + disc(RIGHT, 14), candidate=2)
    mask, report, shown = run(comfy, graph, node)
    (resolution,) = shown["flexedit_resolution"]
    assert resolution["ambiguous"] and resolution["chosen"] == 2
    assert comfy.fetch_image(resolution["scene"]).size == (WIDTH, HEIGHT)
    assert len(resolution["candidates"]) == len(report["candidates"])
    cuts = [comfy.fetch_image(one["mask"]) for one in resolution["candidates"]]
    alphas = [np.asarray(cut.getchannel("A")) for cut in cuts]
    assert np.array_equal(alphas[1] > 127, mask) and not (alphas[0] > 127)[mask].any()
    assert all(cut.convert("RGB").getextrema() == ((255, 255),) * 3 for cut in cuts)
    assert all(
        set(one["mask"]) == {"filename", "subfolder", "type"} for one in resolution["candidates"]
    )


def test_the_same_picture_is_shown_by_the_same_file(comfy):
    shown = []
    for candidate, method in ((1, "classic"), (2, "classic"), (1, "classic")):
        graph = Graph()
        node = resolver(graph, comfy, disc(LEFT, 14) + disc(RIGHT, 14), method, candidate=candidate)
        (resolution,) = run(comfy, graph, node)[2]["flexedit_resolution"]
        shown.append(resolution)
    assert len({resolution.pop("chosen") for resolution in shown}) == 2
    assert shown[0] == shown[1] == shown[2]
    graph = Graph()
    other = resolver(graph, comfy, disc(LEFT, 15))
    (resolution,) = run(comfy, graph, other)[2]["flexedit_resolution"]
    assert resolution["scene"] == shown[0]["scene"]
    assert resolution["question"] != shown[0]["question"]


def test_a_page_shows_what_a_script_has_run_before(comfy):
    graph = Graph()
    node = resolver(graph, comfy, disc(RIGHT, 13))
    graph.save_mask(node[0])
    prompt_id = comfy.queue(graph)
    watched = comfy.run(graph)[node.node_id]  # after the other
    unwatched = comfy.history(prompt_id)["outputs"][node.node_id]
    assert watched == unwatched
    (resolution,) = unwatched["flexedit_resolution"]
    assert comfy.fetch_image(resolution["scene"]).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", ["tiny-sam", "maker/tiny-sam2"])
def test_a_connected_sam_is_asked(name, comfy, listed):
    graph = Graph()
    loader = graph.add("FlexEditSAMLoader", model=name, precision="auto")
    node = resolver(graph, comfy, disc(LEFT, 28), "sam", sam=loader[0])
    mask, report, _ = run(comfy, graph, node)
    assert mask.shape == (HEIGHT, WIDTH) and mask.any() and report["candidates"]


def test_scenes_and_scribbles_of_other_sizes_and_numbers_are_matched(comfy):
    graph = Graph()
    scenes = graph.add("RepeatImageBatch", image=load(graph, comfy, "s.png", 24, 40)[0], amount=3)
    node = graph.add(
        "FlexEditResolveMask",
        scene=scenes[0],
        mask=free_shape(graph, image_width=80, image_height=48),
        method="classic",
        **SETTINGS,
    )
    saved, overlay = graph.save_mask(node[0]), graph.save(node[1])
    outputs = comfy.run(graph)
    for shown in (saved, overlay):
        assert [one.shape for one in pictures(comfy, outputs, shown)] == [(24, 40, 3)] * 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"method": "guess"}, "Unknown method 'guess'"),
        ({"method": "sam"}, "Connect a FlexEdit SAM Loader"),
        ({"candidate": 6}, "no candidate 6"),
    ],
)
def test_what_cannot_be_done_is_explained(inputs, message, comfy):
    graph = Graph()
    node = resolver(graph, comfy, disc(LEFT, 14), **inputs)
    with pytest.raises(PromptFailed, match=message) as failure:
        run(comfy, graph, node)
    assert failure.value.node_type == "FlexEditResolveMask"
