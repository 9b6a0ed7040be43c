"""Runs a graph around a model that cannot be had here: all from the picture to the saved result."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tools.comfyui.server import ComfyServer
from tools.workflows import drawing, node_of

WIDTH, HEIGHT, RADIUS = 200, 150, 45
STROKE = drawing([(0.4, 0.4), (0.6, 0.5), (0.45, 0.62)])


def disc_on_grass() -> Image.Image:
    """A red disc in the middle of green pixels, both a little noisy."""
    flat = np.where((distance() < RADIUS)[..., None], (200, 50, 60), (60, 150, 70))
    noise = np.random.default_rng(0).normal(0, 4, flat.shape)
    return Image.fromarray(np.clip(flat + noise, 0, 255).astype(np.uint8))


def distance() -> np.ndarray:
    """(HEIGHT, WIDTH), from the middle in pixels"""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.hypot(x - WIDTH / 2, y - HEIGHT / 2)


def check_composite(comfy: ComfyServer, prompt: dict[str, Any]) -> None:
    """Scribbles on a part of the disc; the negative of what was cut out stands in for the edit.

    The whole disc must be edited, and all outside of the resolved mask stay bit for bit.
    """
    scene = disc_on_grass()
    resolve, composite = (node_of(prompt, f"FlexEdit{it}") for it in ("ResolveMask", "Composite"))
    crop, save = node_of(prompt, "FlexEditCrop"), node_of(prompt, "SaveImage")
    picture = prompt[node_of(prompt, "LoadImage")]["inputs"]
    picture["image"] = comfy.upload_image(scene, "disc.png")
    prompt[node_of(prompt, "FlexEditFreeShapeMask")]["inputs"]["strokes"] = STROKE
    prompt["negative"] = {"class_type": "ImageInvert", "inputs": {"image": [crop, 0]}}
    prompt[composite]["inputs"]["edited"] = ["negative", 0]
    prompt["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": [resolve, 0]}}
    prompt["region"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["mask", 0], "filename_prefix": "region"},
    }
    outputs = comfy.run(prompt)
    before, after = np.asarray(scene), fetched(comfy, outputs[save])
    changed = (before != after).any(-1)
    assert not changed[fetched(comfy, outputs["region"])[..., 0] == 0].any()
    assert changed[distance() < RADIUS - 10].mean() > 0.98  # some noise is its own negative
    assert not changed[distance() > RADIUS + 20].any()


def fetched(comfy: ComfyServer, output: dict[str, Any]) -> np.ndarray:
    """(H, W, 3) uint8"""
    return np.asarray(comfy.fetch_image(output["images"][0]).convert("RGB"))
