"""A FlexEdit part (VLLM, bridge, adapter) in ComfyUI's care: read from disk when it is first used,
on the device only while it is needed, and never read twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...flexedit.models.config import SystemConfig

PRECISIONS = {
    "auto": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type a part computes in; ``auto`` is what ComfyUI prefers on this device."""
    if dtype := PRECISIONS[precision]:
        return dtype
    if model_management.should_use_fp16(device, prioritize_performance=False):
        return torch.float16
    return torch.float32


class ManagedPart:
    """One part of a model folder. A wire that carries it keeps it loaded; ComfyUI places it.

    ``load(dtype)`` gives the part as a plain nn.Module on the CPU; what it raises reaches the user.
    ``config`` is the system that the part belongs to, None for a stock VLLM.
    ``encoder``: sits where ComfyUI puts text encoders, not where it puts diffusion models.
    """

    patcher: ModelPatcher | None = None  # ComfyUI looks for it in every output: None until read

    def __init__(
        self,
        name: str,
        load: Callable[[torch.dtype], nn.Module],
        precision: str = "auto",
        config: SystemConfig | None = None,
        encoder: bool = True,
    ) -> None:
        self.name = name
        self.config = config
        self._load = load
        if encoder:
            self.device = model_management.text_encoder_device()
            self._offload_device = model_management.text_encoder_offload_device()
        else:
            self.device = model_management.get_torch_device()
            self._offload_device = model_management.unet_offload_device()
        self.dtype = precision_dtype(precision, self.device)

    def read(self) -> ModelPatcher:
        """The part as ComfyUI manages it, read from disk if this is its first use."""
        if self.patcher is None:
            module = self._load(self.dtype)
            self.patcher = ModelPatcher(module, self.device, self._offload_device)
        return self.patcher

    def use(self, memory_required: float = 0) -> Any:
        """The part on ``device``, whole; ``memory_required``: bytes its activations will need."""
        patcher = self.read()
        model_management.load_models_gpu(
            [patcher], memory_required=memory_required, force_full_load=True
        )
        module = patcher.model
        if any(tensor.device != self.device for tensor in _tensors(module)):
            module.to(self.device)  # ComfyUI left some behind: little memory, or --novram
        return module

    def get_ram_usage(self) -> int:
        """Bytes; ComfyUI asks outputs in its cache for it, and asking must not read a file."""
        return self.patcher.model_size() if self.patcher else 0


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def on_device(value: Any, device: torch.device | str) -> Any:
    """A tensor, or any mapping or dataclass with tensors in it, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: on_device(one, device) for name, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        moved = {field.name: on_device(getattr(value, field.name), device) for field in fields}
        return dataclasses.replace(value, **moved)
    return value


def on_cpu(value: Any) -> Any:
    """Outputs outlive their stage, and what they were made by."""
    return on_device(value, "cpu")
