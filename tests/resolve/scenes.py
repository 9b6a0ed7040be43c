"""A drawn scene: two discs, each of a colour, on a wall of fine grain."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

HEIGHT, WIDTH = 120, 160
LEFT, RIGHT = (60, 45), (60, 115)  # centres (y, x)


def disc(center: tuple[int, int], radius: float) -> Tensor:
    """(H, W) of 0 and 1"""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return torch.from_numpy(np.hypot(y - center[0], x - center[1]) <= radius).float()


def scene() -> Tensor:
    """(3, H, W)"""
    picture = torch.full((3, HEIGHT, WIDTH), 0.6)
    for center, color in ((LEFT, (0.8, 0.2, 0.1)), (RIGHT, (0.1, 0.3, 0.8))):
        inside = disc(center, 28) > 0
        picture[:, inside] = torch.tensor(color).unsqueeze(1)
    grain = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    return (picture + 0.03 * grain).clamp(0, 1)
