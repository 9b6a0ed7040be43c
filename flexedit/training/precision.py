"""What training computes in: bf16 where the machine has units for it, float32 where it has none.

A CPU without such units takes a hundred times as long for a product in bf16.
"""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager
from functools import cache
from typing import Literal

import torch

Precision = Literal["auto", "no", "bf16", "fp16"]  # auto: bf16 or no, whichever is faster
SIDE = 1024  # of the matrices that are multiplied

log = logging.getLogger(__name__)


def resolved(precision: Precision) -> Literal["no", "bf16", "fp16"]:
    """What accelerate is told."""
    if precision != "auto":
        return precision
    from accelerate import PartialState

    device = PartialState(cpu=not torch.cuda.is_available()).device
    return "bf16" if fast_dtype(device) is torch.bfloat16 else "no"


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Inside, models compute as they do in training."""
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
        resolved(precision)
    ]
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 or float32: on a CPU what the first process of a training has measured, so that all
    of them compute alike; bfloat16 on a GPU.
    """
    if device.type != "cpu":
        return torch.bfloat16
    from accelerate.utils import broadcast_object_list

    (dtype,) = broadcast_object_list([faster_on_cpu()])
    return dtype


@cache
def faster_on_cpu() -> torch.dtype:
    """Measures one product in either, once in the life of a process."""
    taken = {dtype: seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    dtype = min(taken, key=taken.__getitem__)
    log.info(
        "Computing in %s: a product of %d × %d takes %.3f s in float32, %.3f s in bfloat16.",
        str(dtype).removeprefix("torch."), SIDE, SIDE, *taken.values(),
    )  # fmt: skip
    return dtype


def seconds(dtype: torch.dtype) -> float:
    """That the CPU spends on one product: others who use it meanwhile do not count."""
    matrix = torch.ones(SIDE, SIDE, dtype=dtype)
    small = matrix[:32, :32]
    _ = small @ small  # the first product prepares what all need
    began = time.process_time()
    _ = matrix @ matrix
    return time.process_time() - began
