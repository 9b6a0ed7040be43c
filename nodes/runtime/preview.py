"""Pictures that a node shows on the page, small."""

from __future__ import annotations

import os
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...flexedit.compositing import resize
from ...flexedit.resolve.resolver import Resolved
from .types import to_bchw

LONGEST = 1024  # pixels of a picture's longer side; the page shows no more
FOLDER = "flexedit"  # below ComfyUI's temporary files, which it deletes when it starts


def watched_server() -> Any | None:
    """ComfyUI's server, if a client looks on; a script may name none, and a test need no server."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    return server.instance if server and server.instance.client_id else None


def show(image: Tensor, node_id: str) -> dict[str, list[Any]] | None:
    """Sends the first of an IMAGE (B, H, W, C) to the page → `ui` for the node's output; there
    web/drawing/picture.js puts it under the drawing.

    The message arrives even if the node then fails, the `ui` even if its result was cached.
    """
    server = watched_server()
    if server is None:
        return None
    picture = saved(image)
    message = {"node_id": node_id, "picture": picture}
    server.send_sync("flexedit.picture", message, server.client_id)
    return {"flexedit_picture": [picture]}


def show_candidates(
    scene: Tensor, mask: Tensor, method: str, resolved: Resolved
) -> dict[str, list[Any]] | None:
    """`ui` for the node's output, of the first of an IMAGE (B, H, W, C) and its scribble:
    references to pictures of the scene and of each candidate, white on transparent. One clicks a
    candidate to choose it; ``question`` tells one scene, scribble and method from others.
    """
    if watched_server() is None:
        return None
    found = resolved.resolutions[0]
    candidates = [
        {
            "confidence": round(one.confidence, 3),
            "mask": saved(white_where(torch.from_numpy(one.mask))),
        }
        for one in found.candidates
    ]
    picture = saved(scene)
    scribble = digest(small(mask.reshape(-1, 1, *mask.shape[-2:])[:1].float()).numpy())
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
    pixels = (picture.movedim(0, -1).cpu().numpy() * 255).round().astype(np.uint8)
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
