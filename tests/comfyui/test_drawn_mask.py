"""The kind `drawn` as the API gets it: strokes as JSON, no browser."""

import json

import numpy as np
from PIL import Image

from flexedit.masks.strokes import parse, rasterise
from tests.comfyui.graph import Graph, free_shape, load, pictures

STROKES = json.dumps(
    {
        "version": 1,
        "strokes": [
            {"tool": "brush", "width": 0.2, "points": [[0.1, 0.2], [0.8, 0.3], [0.4, 0.9]]},
            {"tool": "circle", "points": [[0.5, 0.5], [0.9, 0.9]], "open": True},
            {"tool": "eraser", "points": [[0.3, 0.2]]},
        ],
    }
)


def drawn(height: int, width: int) -> np.ndarray:
    return rasterise(parse(STROKES), height, width).numpy() > 0


def test_strokes_of_an_api_graph_make_the_librarys_mask(comfy):
    graph = Graph()
    saved = graph.save_mask(free_shape(graph, "drawn", strokes=STROKES))
    (mask,) = pictures(comfy, comfy.run(graph), saved)
    assert np.array_equal(mask[..., 0] > 0, drawn(32, 48))


def test_the_run_shows_the_picture_that_is_drawn_on(comfy):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 40, 56)
    mask = graph.add(
        "PreviewAny", source=free_shape(graph, "drawn", image=scene[0], strokes=STROKES)
    )
    plain = free_shape(graph, "circle", image=scene[0])
    graph.save_mask(plain)
    outputs = comfy.run(graph)
    node_id = graph[mask.node_id]["inputs"]["source"][0]
    (entry,) = outputs[node_id]["flexedit_picture"]
    assert comfy.fetch_image(entry).size == (56, 40)
    assert plain[0] not in outputs


def test_a_picture_that_goes_beyond_black_and_white_is_shown_as_they_are(comfy):
    graph = Graph()
    board = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((8, 8))).astype(np.uint8) * 255
    name = comfy.upload_image(Image.fromarray(board).convert("RGB"), "board.png")
    scene = graph.add("LoadImage", image=name)
    settings = {"width": 128, "height": 128, "upscale_method": "bicubic", "crop": "disabled"}
    large = graph.add("ImageScale", image=scene[0], **settings)  # its edges overshoot
    mask = free_shape(graph, "drawn", image=large[0], strokes=STROKES)
    graph.add("PreviewAny", source=mask)
    (entry,) = comfy.run(graph)[mask[0]]["flexedit_picture"]
    shown = np.asarray(comfy.fetch_image(entry).convert("L"))[2::4, 2::4]
    assert np.abs(shown.astype(int) - board).max() < 128
