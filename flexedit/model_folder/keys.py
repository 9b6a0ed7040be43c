"""The keys of ``flexedit.safetensors``, and what takes them: no more, no less.

They are a tested contract: ``unet.*`` in diffusers names, ``qformer.*``, ``mea.*`` with the
decoupled layers under ``mea.subject.<layer>.to_k|to_v``, ``lora.<layer>.<q|v>.<A|B>``,
``tokens.embed``, ``tokens.lm_head`` and ``null.edit``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import FlexEditError
from ..models.mea import MEA
from ..models.qformer import QFormer
from ..models.unet import FlexEditUNet

# What a key begins with → the part that has it; of the VLLM its LoRA and edit tokens are trained
PART_OF = {
    "unet": "unet",
    "mea": "mea",
    "null": "mea",
    "qformer": "qformer",
    "lora": "vllm",
    "tokens": "vllm",
}


def part_of(key: str) -> str | None:
    """The part that has a key, None if it is none of ours."""
    return PART_OF.get(key.partition(".")[0])


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose keys begin with ``prefix.``, which is cut off."""
    start = prefix + "."
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}


def trained_tensors(
    unet: FlexEditUNet,
    mea: MEA,
    qformer: QFormer | None = None,
    tokens: Mapping[str, Tensor] | None = None,
    lora: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """All that FlexEdit trained, under the checkpoint's names."""
    adapter = mea.state_dict()
    states: dict[str, Mapping[str, Tensor]] = {
        "unet": unet.unet.state_dict(),
        "null": {"edit": adapter.pop("null_edit")},
        "mea": adapter,
        "qformer": {} if qformer is None else qformer.state_dict(),
        "tokens": tokens or {},
        "lora": lora or {},
    }
    return {f"{prefix}.{key}": state[key] for prefix, state in states.items() for key in state}


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> Any:
    """Puts tensors into a module; they must have its names and shapes, no more and no less."""
    check_shapes({key: own.shape for key, own in module.state_dict().items()}, tensors, what)
    module.load_state_dict(dict(tensors), assign=True)
    return module


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], what: str
) -> None:
    check_keys(expected, found, what)
    for key, tensor in found.items():
        if tuple(tensor.shape) != tuple(expected[key]):
            raise FlexEditError(
                f"{what}.{key} has shape {tuple(tensor.shape)}, "
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
