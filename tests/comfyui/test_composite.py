"""What the composite leaves alone, in the saved PNG."""

import numpy as np
import pytest
from PIL import Image

from tests.comfyui.graph import Graph, free_shape, pictures

SIZE = (121, 170)  # height, width: no multiple of anything


@pytest.fixture(scope="module")
def original(comfy) -> tuple[str, np.ndarray]:
    """Noise that has all 256 values in every channel, in ComfyUI's input folder"""
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return comfy.upload_image(Image.fromarray(pixels), "noise.png"), pixels


@pytest.fixture(scope="module")
def edited(comfy, original) -> str:
    """The same with a grey rectangle in its middle"""
    pixels = original[1].copy()
    pixels[25:-25, 35:-35] = 128
    return comfy.upload_image(Image.fromarray(pixels), "edited.png")


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("color_match", [False, True, None])
@pytest.mark.parametrize("region", ["mask", "mask + connected change"])
def test_outside_the_region_the_saved_png_is_the_original(
    region, color_match, crop, comfy, original, edited
):
    name, pixels = original
    graph = Graph()
    scene = graph.add("LoadImage", image=name)
    mask = free_shape(graph, image=scene[0], shape_width=0.3, shape_height=0.3)
    cropped = graph.add("FlexEditCrop", scene=scene[0], mask=mask, size=64, context=1.5)
    if crop:
        edit = graph.add("ImageInvert", image=cropped[0])
    else:
        edit = graph.add("LoadImage", image=edited)
    result = graph.add(
        "FlexEditComposite",
        scene=scene[0],
        edited=edit[0],
        mask=mask,
        region=region,
        grow=4,
        feather=6,
        crop=cropped[2] if crop else None,
        color_match=color_match,  # None: as in a graph saved before it was there
    )
    ids = [graph.save(result[0]), graph.save_mask(result[1])]
    outputs = comfy.run(graph)
    after, where = (pictures(comfy, outputs, node_id)[0] for node_id in ids)
    outside = where[..., 0] == 0
    assert 0.2 < outside.mean() < 0.95
    assert np.array_equal(after[outside], pixels[outside])
    assert (after[~outside] != pixels[~outside]).mean() > 0.7
