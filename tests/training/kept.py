"""What a training has left in its folder, as tests look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexedit.training import checkpoint


def stored(path: Path) -> dict[str, Tensor]:
    """What a checkpoint has, by name"""
    into = {
        name: torch.empty(shape, dtype=dtype)
        for name, (shape, dtype) in checkpoint.shapes(path).items()
    }
    checkpoint.read(path, into)
    return into


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """step · trained, averages: tensors by the parameter's name · optimizer: tensors by the
    parameter's name and the state's.
    """
    path = checkpoint.latest(folder)
    assert path is not None and path.name != checkpoint.FORMER
    state: dict[str, Any] = {"trained": {}, "averages": {}, "optimizer": {}}
    for name, tensor in stored(path).items():
        kind, _, parameter = name.partition(".")
        if kind == "optimizer":
            parameter, _, key = parameter.rpartition(".")
            state[kind].setdefault(parameter, {})[key] = tensor
        else:
            state[kind][parameter] = tensor
    return state | {"step": checkpoint.facts_of(path)["step"]}
