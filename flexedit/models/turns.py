"""Parts of a model that take turns on a device too small for all of them."""

from __future__ import annotations

import torch
from torch import nn


class Turns:
    """One part is on the device at a time; the others wait in the CPU's memory.

    accelerate's and diffusers' hooks do the same when a module's ``forward`` is called; ours are
    asked by other methods as well (``read``, ``null``, ``encode``), so whoever wants one says so.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_device: nn.Module | None = None

    def take(self, part: nn.Module) -> nn.Module:
        """The part, on the device, after the one before has left it."""
        if part is not self.on_device:
            if self.on_device is not None:
                self.on_device.to("cpu")
            self.on_device = part
            part.to(self.device)
        return part
