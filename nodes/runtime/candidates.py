"""Shows what a scribble may mean on the page, where one clicks a candidate to choose it."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import ui
from torch import Tensor

from ...flexedit.resolve.resolver import Resolved


def show(scene: Tensor, resolved: Resolved) -> dict[str, list[Any]]:
    """`ui` for the node's output, of the first of an IMAGE (B, H, W, C): references to pictures of
    the scene and of each candidate, white on transparent.
    """
    found = resolved.resolutions[0]
    covered = torch.stack([torch.from_numpy(one.mask) for one in found.candidates]).to(scene)
    white = torch.ones(*covered.shape, 3).to(scene)
    pictures = _saved(torch.cat([white, covered.unsqueeze(-1)], -1))
    candidates = [
        {"confidence": round(one.confidence, 3), "mask": picture}
        for one, picture in zip(found.candidates, pictures, strict=True)
    ]
    (shown,) = _saved(scene[:1])
    resolution = {
        "scene": shown,
        "chosen": resolved.chosen,
        "ambiguous": found.ambiguous,
        "candidates": candidates,
    }
    return {"flexedit_resolution": [resolution]}


def _saved(pictures: Tensor) -> list[dict[str, str]]:
    return ui.PreviewImage(pictures).as_dict()["images"]
