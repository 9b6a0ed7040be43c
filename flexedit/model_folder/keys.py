"""The keys of ``flexedit.safetensors``, and what takes them: no more, no less.

They are a tested contract: ``unet.*`` in diffusers names, ``qformer.*``, ``mapper.*``, ``bim.*``,
``iaa.*``, ``mea.*`` with the decoupled layers under ``mea.subject.<layer>.to_k|to_v``,
``lora.<layer>.<q|v>.<A|B>``, ``tokens.embed``, ``tokens.lm_head`` and ``null.edit``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import FlexEditError
from ..models.adapters import ADAPTERS
from ..models.bridges import BRIDGES
from ..models.interactions import INTERACTIONS
from ..models.parts import Part, Slot

PARTS: dict[Slot, Mapping[str, type[Part]]] = {
    "bridge": BRIDGES,
    "interaction": INTERACTIONS,
    "adapter": ADAPTERS,
}
# What a key begins with → the slot that has it; of the VLLM its LoRA and edit tokens are trained
SLOT_OF = {
    "unet": "unet",
    **{part.prefix: slot for slot, parts in PARTS.items() for part in parts.values()},
    "null": "bridge",
    "lora": "vllm",
    "tokens": "vllm",
}


def prefix_of(key: str) -> str:
    return key.partition(".")[0]


def slot_of(key: str) -> str | None:
    """The slot that has a key, None if it is none of ours."""
    return SLOT_OF.get(prefix_of(key))


def of_slot(slot: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one slot, under their full names."""
    return {key: tensor for key, tensor in tensors.items() if slot_of(key) == slot}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose keys begin with ``prefix.``, which is cut off."""
    start = prefix + "."
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}


def load_strict(part: Any, tensors: Mapping[str, Tensor], what: str) -> Any:
    """Puts a slot's tensors (full names) into its part, which takes all of them and no others."""
    check_shapes({key: own.shape for key, own in part.checkpoint().items()}, tensors, what)
    with torch.no_grad():
        part.load_checkpoint(tensors)
    return part


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], what: str
) -> None:
    check_keys(expected, found, what)
    for key, tensor in found.items():
        if tuple(tensor.shape) != tuple(expected[key]):
            raise FlexEditError(
                f"{what}: {key} has shape {tuple(tensor.shape)}, "
                f"but the config asks for {tuple(expected[key])}. "
                "Config and weights do not belong together; download or export the model again."
            )


def check_keys(expected: Iterable[str], found: Iterable[str], what: str) -> None:
    expected, found = set(expected), set(found)
    if missing := sorted(expected - found):
        raise FlexEditError(f"{what} lacks {shorten(missing)}. Download or export the model again.")
    if unexpected := sorted(found - expected):
        raise FlexEditError(
            f"{what} has unexpected {shorten(unexpected)}. It was written for another config or a "
            "newer FlexEdit."
        )


def shorten(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
