"""However ComfyUI keeps memory and results, the scene stays as it was outside the region."""

import numpy as np
import pytest
from PIL import Image

from tests.comfyui.graph import Graph, free_shape, pictures
from tools.comfyui.fetch import comfyui_path
from tools.comfyui.server import ComfyServer

SIZE = (50, 70)


@pytest.fixture(
    params=[("--fp16-intermediates", "--cache-none"), ("--cache-lru", "10")],
    ids=" ".join,
)
def told(request, tiny):
    known = (comfyui_path() / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    flags = [flag for flag in request.param if not flag.startswith("--") or f'"{flag}"' in known]
    with ComfyServer(*flags, models={"flexedit/tiny": tiny}) as comfy:
        yield comfy


def test_the_scene_is_the_same_outside_the_region(told):
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    graph = Graph()
    scene = graph.add("LoadImage", image=told.upload_image(Image.fromarray(pixels), "noise.png"))
    mask = free_shape(graph, image=scene[0], shape_width=0.3, shape_height=0.3)
    crop = graph.add("FlexEditCrop", scene=scene[0], mask=mask, size=32, context=1.5)
    edited = graph.edit("tiny", crop[0], crop[1])
    result = graph.add(
        "FlexEditComposite",
        scene=scene[0],
        edited=edited,
        mask=mask,
        crop=crop[2],
        region="mask + connected change",
        grow=1,
        feather=2,
    )
    ids = [graph.save(result[0]), graph.save_mask(result[1])]
    for _ in range(2):  # the second time some of it may be remembered
        outputs = told.run(graph)
    after, where = (pictures(told, outputs, one)[0] for one in ids)
    outside = where[..., 0] == 0
    assert 0.2 < outside.mean() < 0.98
    assert np.array_equal(after[outside], pixels[outside])
    assert not np.array_equal(after, pixels)
