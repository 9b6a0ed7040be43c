"""What moves the weights: AdamW, also with averages of 8 bits (bitsandbytes), or Muon (timm)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import FlexEditError
from .precision import fast_dtype

Optimizer = Literal["adamw", "adamw8bit", "muon"]

OTHERS = {  # their package, module and class
    "adamw8bit": ("bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
    "muon": ("timm", "timm.optim", "Muon"),
}


def optimizer_class(name: str) -> Any:
    """torch's AdamW; bitsandbytes' with averages of 8 bits, which takes a quarter of the memory;
    timm's Muon, which knows convolutions.

    Raises FlexEditError for an unknown optimizer, and for one whose package is not installed.
    """
    if name not in get_args(Optimizer):
        raise FlexEditError(
            f"Unknown optimizer {name!r}; choose from {', '.join(get_args(Optimizer))}."
        )
    if name == "adamw":
        return torch.optim.AdamW
    package, module, kind = OTHERS[name]
    try:
        return getattr(import_module(module), kind)
    except ImportError as error:
        raise FlexEditError(
            f"Training with {kind} needs {package}: pip install {package}, or choose the optimizer "
            "adamw."
        ) from error


def build_optimizer(
    name: Optimizer, model: nn.Module, device: torch.device, **settings: Any
) -> torch.optim.Optimizer:
    """AdamW for all that is trained, or Muon for the weights of linear and convolution layers (each
    a matrix, whose step is made orthogonal and as long as AdamW's) and NAdamW for the others.

    device: where it will train; Muon iterates in what is fast there · settings: lr, betas,
    weight_decay (of matrices)

    Raises what `optimizer_class` raises.
    """
    kind = optimizer_class(name)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1]},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if name != "muon":
        return kind(groups, **settings, **({"fused": True} if name == "adamw" else {}))

    def weights(*kinds: type) -> set[int]:
        return {id(m.weight) for m in model.modules() if isinstance(m, kinds)}

    matrices = weights(nn.Linear, nn.Conv2d) - weights(nn.Embedding)  # some share theirs
    decayed = groups[0]["params"]
    return iterating_in(fast_dtype(device), kind)(
        [
            {"params": [p for p in decayed if id(p) in matrices]},
            {"params": [p for p in decayed if id(p) not in matrices], "use_fallback": True},
            groups[1] | {"use_fallback": True},
        ],
        nesterov=True,
        adjust_lr_fn="match_rms_adamw",  # so that lr means what it does to AdamW
        **settings,
    )


def iterating_in(dtype: torch.dtype, muon: Any) -> Any:
    """timm's Muon with its iteration in another type than bfloat16, which it takes no argument for:
    while it steps, the function that iterates has one.
    """
    module: Any = sys.modules[muon.__module__]

    class Muon(muon):
        @torch.no_grad()
        def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
            iterate = module.zeropower_via_newtonschulz
            module.zeropower_via_newtonschulz = partial(iterate, dtype=dtype)
            try:
                return super().step(closure)
            finally:
                module.zeropower_via_newtonschulz = iterate

    return Muon
