"""Pictures that a node shows on the page, small."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...flexedit.masks import resize
from ...flexedit.resolve.resolver import Resolved
from .types import to_bchw

LONGEST = 1024  # pixels of a picture's longer side; the page shows no more
FOLDER = "flexedit"  # below ComfyUI's temporary files, which it deletes when it starts


def show(image: Tensor, node_id: str) -> dict[str, list[Any]]:
    """Sends the first of an IMAGE (B, H, W, C) to the page → `ui` for the node's output; there
    web/drawing/picture.js puts it under the drawing.

    The message arrives even if the node then fails, the `ui` even if its result was cached.
    """
    from server import PromptServer  # there is none where a node is only imported

    picture = saved(image)
    server = PromptServer.instance
    if server.client_id is not None:  # somebody looks on
        message = {"node_id": node_id, "picture": picture}
        server.send_sync("flexedit.picture", message, server.client_id)
    return {"flexedit_picture": [picture]}


def show_candidates(
    scene: Tensor, mask: Tensor, method: str, resolved: Resolved
) -> dict[str, list[Any]]:
    """`ui` for the node's output, of the first of an IMAGE (B, H, W, C) and its scribble:
    references to pictures of the scene and of each candidate, white on transparent. One clicks a
    candidate to choose it; ``question`` tells one scene, scribble and method from others.
    """
    found = resolved.resolutions[0]
    candidates = [
        {
            "confidence": round(one.confidence, 3),
            "mask": saved(white_where(torch.from_numpy(one.mask))),
        }
        for one in found.candidates
    ]
    picture = saved(scene)
    scribble = digest(small(mask.reshape(-1, 1, *mask.shape[-2:])[:1].float()).numpy(force=True))
    resolution = {
        "scene": picture,
        "question": f"{picture['filename']} {scribble} {method}",
        "chosen": resolved.chosen,
        "ambiguous": found.ambiguous,
        "candidates": candidates,
    }
    return {"flexedit_resolution": [resolution]}


def white_where(mask: Tensor) -> Tensor:
    """mask (H, W) bool → IMAGE (1, h, w, 4), transparent elsewhere"""
    opacity = small(mask[None, None].float()).round()
    return torch.cat([torch.ones_like(opacity).expand(-1, 3, -1, -1), opacity], 1).movedim(1, -1)


def saved(image: Tensor) -> dict[str, str]:
    """A reference to a small copy of the first of an IMAGE (B, H, W, C), a grey one in colours.

    Named by its content: what is shown run after run is written once.
    """
    picture = small(to_bchw(image[:1]).float())[0]
    if picture.shape[0] == 1:
        picture = picture.expand(3, -1, -1)
    pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy(force=True)
    name = f"{digest(pixels)}.png"
    path = Path(folder_paths.get_temp_directory(), FOLDER, name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        Image.fromarray(pixels).save(unfinished, "PNG", compress_level=1)
        os.replace(unfinished, path)
    return {"filename": name, "subfolder": FOLDER, "type": "temp"}


def digest(array: np.ndarray) -> str:
    contents = np.ascontiguousarray(array)
    return blake2b(contents, digest_size=16, key=str(array.shape).encode()).hexdigest()


def small(picture: Tensor) -> Tensor:
    """picture (1, C, H, W) → (1, C, h, w)"""
    height, width = picture.shape[2:]
    scale = min(1.0, LONGEST / max(height, width))
    return resize(picture, max(1, round(height * scale)), max(1, round(width * scale)))
