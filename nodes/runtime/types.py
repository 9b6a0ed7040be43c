"""What travels along our wires, and the two translations every node needs."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io
from torch import Tensor

CATEGORY = "FlexEdit"

Vllm = io.Custom("FLEXEDIT_VLLM")  # ManagedPart around flexedit.models.vllm.VLLM or Instruction
Qformer = io.Custom("FLEXEDIT_QFORMER")  # ManagedPart around a bridge of flexedit.models.bridges
Mea = io.Custom("FLEXEDIT_MEA")  # ManagedPart around conditioning.Conditioner
Sam = io.Custom("FLEXEDIT_SAM")  # ManagedPart around flexedit.resolve.sam.Sam
Intent = io.Custom("FLEXEDIT_INTENT")  # flexedit.systems.system.Intent, on the CPU
Embeds = io.Custom("FLEXEDIT_EMBEDS")  # flexedit.systems.system.Embeds, on the CPU
CropBox = io.Custom("FLEXEDIT_CROP")  # where a crop came from


def schema(**settings: Any) -> io.Schema:
    """io.Schema without the settings that this ComfyUI is too old to know (``search_aliases``)."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in settings.items() if name in known})


def to_bchw(image: Tensor) -> Tensor:
    """ComfyUI's IMAGE (B, H, W, C) → (B, C, H, W)"""
    return image.movedim(-1, 1)


def to_bhwc(picture: Tensor) -> Tensor:
    """(B, C, H, W) → ComfyUI's IMAGE (B, H, W, C)"""
    return picture.movedim(1, -1)
