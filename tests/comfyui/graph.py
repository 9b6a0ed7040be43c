"""Short ways to say the graphs that the tests run.

graph = Graph()
scene = graph.add("LoadImage", image="scene.png")
graph.add("SaveImage", images=scene[0], filename_prefix="copy")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tools.comfyui.server import ComfyServer

Slot = list  # [node id, output number]

SHAPE = {
    "x": 0.5,
    "y": 0.5,
    "shape_width": 0.4,
    "shape_height": 0.4,
    "rotation": 0.0,
    "stroke": 0.06,
    "seed": 3,
    "image_width": 48,
    "image_height": 32,
}
OPAQUE = {"region": "mask", "grow": 0, "feather": 0}


class Node:
    def __init__(self, node_id: str):
        self.node_id = node_id

    def __getitem__(self, output: int) -> Slot:
        return [self.node_id, output]


class Graph(dict):
    """A prompt in API format that grows node by node."""

    def add(self, class_type: str, **inputs: Any) -> Node:
        node_id = str(len(self) + 1)
        connected = {name: value for name, value in inputs.items() if value is not None}
        self[node_id] = {"class_type": class_type, "inputs": connected}
        return Node(node_id)

    def save(self, image: Slot) -> str:
        return self.add("SaveImage", images=image, filename_prefix="test").node_id

    def save_mask(self, mask: Slot) -> str:
        return self.save(self.add("MaskToImage", mask=mask)[0])

    def interpret(
        self,
        model: str,
        scene: Slot,
        mask: Slot | None = None,
        subject: Slot | None = None,
        instruction: str = "remove this",
        task: str = "edit",
        reply: str = "direct",
    ) -> tuple[Node, Node]:
        """→ loader, interpreter"""
        loader = self.add("FlexEditLoader", model=model, precision="auto")
        interpreter = self.add(
            "FlexEditMaskInterpreter",
            vllm=loader[3],
            scene=scene,
            instruction=instruction,
            task=task,
            reply=reply,
            mask=mask,
            subject=subject,
        )
        return loader, interpreter

    def edit(
        self, model: str, scene: Slot, mask: Slot | None = None, *, steps: int = 1, **request: Any
    ) -> Slot:
        """The whole road → the decoded picture"""
        loader, interpreter = self.interpret(model, scene, mask, **request)
        embeds = self.add("FlexEditQFormerEmbed", qformer=loader[4], intent=interpreter[0])
        branches = self.add(
            "FlexEditMEAConditioning",
            mea=loader[5],
            embeds=embeds[0],
            clip_vision=loader[2],
            vae=loader[1],
            subject_strength=1.0,
        )
        sampled = self.add(
            "FlexEditKSampler",
            model=loader[0],
            positive=branches[0],
            scene_only=branches[1],
            negative=branches[2],
            latent=branches[3],
            seed=0,
            steps=steps,
            edit_cfg=2.0,
            scene_cfg=1.5,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        )
        return self.add("VAEDecode", samples=sampled[0], vae=loader[1])[0]


def load(graph: Graph, comfy: ComfyServer, name: str, height: int, width: int, **kind: int) -> Node:
    """A LoadImage of an uploaded `picture`"""
    return graph.add("LoadImage", image=comfy.upload_image(picture(height, width, **kind), name))


def free_shape(graph: Graph, kind: str = "circle", **inputs: Any) -> Slot:
    """→ a mask, 48×32 unless told otherwise"""
    return graph.add("FlexEditFreeShapeMask", **{**SHAPE, "kind": kind, **inputs})[0]


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Image.Image:
    """Smooth random colours; with 4 channels a circle is transparent, as MaskEditor saves it."""
    shape = (3, 3, min(channels, 3))
    corners = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    small = Image.fromarray(corners[..., 0] if channels == 1 else corners)
    smooth = small.resize((width, height), Image.Resampling.BICUBIC)
    if channels == 4:
        y, x = np.mgrid[:height, :width]
        inside = ((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2 < 0.04
        smooth.putalpha(Image.fromarray(np.where(inside, 0, 255).astype(np.uint8)))
    return smooth


def pictures(comfy: ComfyServer, outputs: dict[str, Any], node_id: str) -> Sequence[np.ndarray]:
    """What a SaveImage saved, as (H, W, 3) uint8."""
    return [np.asarray(comfy.fetch_image(entry)) for entry in outputs[node_id]["images"]]
