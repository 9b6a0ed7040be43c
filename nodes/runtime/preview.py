"""Pictures that a node shows on the page, small."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import ui
from torch import Tensor

from ...flexedit.compositing import resize
from ...flexedit.resolve.resolver import Resolved
from .types import to_bchw, to_bhwc

LONGEST = 1024  # pixels of a picture's longer side; the page shows no more


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


def show_candidates(scene: Tensor, resolved: Resolved) -> dict[str, list[Any]]:
    """`ui` for the node's output, of the first of an IMAGE (B, H, W, C): references to pictures of
    the scene and of each candidate, white on transparent. One clicks a candidate to choose it.
    """
    found = resolved.resolutions[0]
    candidates = [
        {
            "confidence": round(one.confidence, 3),
            "mask": saved(white_where(torch.from_numpy(one.mask))),
        }
        for one in found.candidates
    ]
    resolution = {
        "scene": saved(scene),
        "chosen": resolved.chosen,
        "ambiguous": found.ambiguous,
        "candidates": candidates,
    }
    return {"flexedit_resolution": [resolution]}


def white_where(mask: Tensor) -> Tensor:
    """mask (H, W) bool → IMAGE (1, h, w, 4), transparent elsewhere"""
    opacity = small(mask[None, None].float()).round()
    return to_bhwc(torch.cat([torch.ones_like(opacity).expand(-1, 3, -1, -1), opacity], 1))


def saved(image: Tensor) -> dict[str, str]:
    """A reference to a small copy of the first of an IMAGE (B, H, W, C), a grey one in colours."""
    picture = small(to_bchw(image[:1]).float())
    if picture.shape[1] == 1:
        picture = picture.expand(-1, 3, -1, -1)
    (reference,) = ui.PreviewImage(to_bhwc(picture)).as_dict()["images"]
    return reference


def small(picture: Tensor) -> Tensor:
    """picture (1, C, H, W) → (1, C, h, w)"""
    height, width = picture.shape[2:]
    scale = min(1.0, LONGEST / max(height, width))
    return resize(picture, max(1, round(height * scale)), max(1, round(width * scale)))
