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

PREFIXES = ("unet", "qformer", "mea", "lora", "tokens", "null")


def trained_tensors(
    unet: FlexEditUNet,
    mea: MEA,
    qformer: QFormer | None = None,
    tokens: Mapping[str, Tensor] | None = None,
    lora: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """All that FlexEdit trained, under the checkpoint's names."""
    named = {f"unet.{key}": value for key, value in unet.unet.state_dict().items()}
    named |= {f"mea.{key}": value for key, value in mea.state_dict().items()}
    named["null.edit"] = named.pop("mea.null_edit")
    if qformer is not None:
        named |= {f"qformer.{key}": value for key, value in qformer.state_dict().items()}
    named |= {f"tokens.{key}": value for key, value in (tokens or {}).items()}
    named |= {f"lora.{key}": value for key, value in (lora or {}).items()}
    return named


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
