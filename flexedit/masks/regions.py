"""The edited region: what really changed beside a mask, grown and feathered.

B batch, H × W height and width in pixels. Pictures are float (B, 3, H, W) in 0..1,
masks float (B, H, W) with 1 = edit.
"""

from __future__ import annotations

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SHIFT = 0.05  # of a channel: what a VAE may do to a picture's colours as a whole


def connected_change(
    scene: Tensor,
    edited: Tensor,
    mask: Tensor,
    threshold: float = 0.07,
    seen: Tensor | None = None,
) -> Tensor:
    """The area that really changed and is connected to the mask, (B, H, W) of 0 and 1.

    scene, edited (B, 3, H, W), mask (B, H, W); `threshold` is the change of a pixel and its
    neighbours, on average, that counts. What was added and outgrows the mask belongs to it, changes
    elsewhere do not. The fine detail that a VAE loses averages out, and the shift of colours that
    it gives to the whole picture is not a change; `seen` (B, H, W): where there is an edit at all.
    """
    moved = edited.float() - scene.float()
    outside = mask == 0 if seen is None else (mask == 0) & (seen > 0)
    shift = torch.stack(
        [_color_shift(one[:, out]) for one, out in zip(moved, outside, strict=True)]
    )
    around = F.avg_pool2d(moved - shift.view(-1, 3, 1, 1), 3, 1, 1).abs().amax(1)
    regions = []
    for changed, seed in zip((around > threshold).numpy(force=True), _support(mask), strict=True):
        changed = scipy.ndimage.binary_opening(changed, np.ones((3, 3)))
        labels, _ = scipy.ndimage.label(changed | seed, np.ones((3, 3)))
        touched = np.unique(labels[seed])
        regions.append(changed & np.isin(labels, touched[touched > 0]))
    return torch.from_numpy(np.stack(regions)).to(mask)


def _color_shift(moved: Tensor) -> Tensor:
    """moved (3, N) → how far most pixels moved (3,); 0 if that is too far for a mere shift."""
    if not moved.numel():
        return moved.new_zeros(3)
    shift = moved.median(1).values
    return shift if shift.abs().amax() <= MAX_SHIFT else torch.zeros_like(shift)


def grow(mask: Tensor, pixels: int) -> Tensor:
    """mask (B, H, W) grown by a disc of `pixels` (shrunk where negative), 0 and 1."""
    if pixels == 0:
        return mask
    support = _support(mask)
    grown = [
        _distance(~one) <= pixels if pixels > 0 else _distance(one) > -pixels for one in support
    ]
    return torch.from_numpy(np.stack(grown)).to(mask)


def feather(mask: Tensor, pixels: int) -> Tensor:
    """mask (B, H, W) fading to 0 over `pixels` inside its border; outside it stays 0."""
    if pixels <= 0:
        return mask
    ramp = [np.minimum(_distance(one) / (pixels + 1), 1) for one in _support(mask)]
    return mask * torch.from_numpy(np.stack(ramp)).to(mask)


def _support(mask: Tensor) -> np.ndarray:
    return (mask > 0).numpy(force=True)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the nearest False; infinite where there is none."""
    return np.full(mask.shape, np.inf) if mask.all() else scipy.ndimage.distance_transform_edt(mask)
