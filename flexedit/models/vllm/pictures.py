"""Pictures as a family of VLLMs reads them: what the model is given, and which tokens of a prompt
stand for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pictures:
    """The pictures of all rows, in reading order.

    tokens: the ids that each is in a prompt · inputs: what transformers' model reads of all of them
    (``pixel_values``, ``image_grid_thw``, …).
    """

    tokens: Sequence[Sequence[int]]
    inputs: Mapping[str, Tensor]

    @classmethod
    def squares(cls, pixels: Tensor, token: int, count: int) -> Pictures:
        """pixels (P, 3, S, S), normalised; each picture is ``count`` times one token."""
        return cls([[token] * count] * len(pixels), {"pixel_values": pixels})

    def to(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The inputs on a device; numbers that are no indices and no masks in ``dtype``."""
        return {
            name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in self.inputs.items()
        }
