"""The edited region: what really changed beside a mask, grown and feathered.

B batch, H × W height and width in pixels. Pictures are float (B, 3, H, W) in 0..1,
masks float (B, H, W) with 1 = edit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.nn import functional as F

from .prepare import window

ENOUGH = 2**17  # pixels, to tell a median
BAND = 2**20  # pixels of a mask whose distances are found at once
MAX_SHIFT = 0.05  # of a channel: what a VAE may do to a picture's colours as a whole


def connected_change(
    scene: Tensor, edited: Tensor, mask: Tensor, threshold: float = 0.07
) -> Tensor:
    """The area that really changed and is connected to the mask, (B, H, W) of 0 and 1.

    scene, edited (B, 3, H, W), mask (B, H, W); `threshold` is the change of a pixel and its
    neighbours, on average, that counts. What was added and outgrows the mask belongs to it, changes
    elsewhere do not. The fine detail that a VAE loses averages out, and the shift of colours that
    it gives to the whole picture is not a change.
    """
    found = []
    for before, after, drawn in zip(scene, edited, mask, strict=True):
        moved = after.float() - before.float()
        moved -= _color_shift(sampled(moved, drawn == 0))[:, None, None]
        around = F.avg_pool2d(moved, 3, 1, 1).abs().amax(0)
        changed = _opened((around > threshold).numpy(force=True))
        seed = _support(drawn)
        labels, count = scipy.ndimage.label(changed | seed, np.ones((3, 3)))
        touched = np.zeros(count + 1, bool)
        touched[labels[seed]] = True
        found.append(changed & touched[labels])
    return torch.from_numpy(np.stack(found)).to(mask)


def sampled(picture: Tensor, where: Tensor) -> Tensor:
    """picture (C, H, W), where (H, W) bool → the pixels there (C, N), evenly spread if they are
    very many: statistics do not need them all.
    """
    places = where.flatten().nonzero()[:, 0]
    return picture.flatten(1)[:, places[:: 1 + len(places) // ENOUGH]]


def _color_shift(moved: Tensor) -> Tensor:
    """moved (3, N) → how far most pixels moved (3,); 0 if that is too far for a mere shift."""
    if not moved.numel():
        return moved.new_zeros(3)
    shift = moved.median(1).values
    return shift if shift.abs().amax() <= MAX_SHIFT else torch.zeros_like(shift)


def _opened(mask: np.ndarray) -> np.ndarray:
    """mask (H, W) bool, where a square of 3 × 3 fits into it"""
    for join in (np.logical_and, np.logical_or):
        padded = np.pad(mask, 1)
        rows = join(join(padded[:-2], padded[1:-1]), padded[2:])
        mask = join(join(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    return mask


def grow(mask: Tensor, pixels: int) -> Tensor:
    """mask (B, H, W) grown by a disc of `pixels` (shrunk where negative), 0 and 1."""
    if pixels == 0:
        return mask
    return _in_bands(mask, max(pixels, 0) + 1, abs(pixels), lambda one: _grown(one, pixels))


def _grown(one: np.ndarray, pixels: int) -> np.ndarray:
    return _distance(~one) <= pixels if pixels > 0 else _distance(one) > -pixels


def feather(mask: Tensor, pixels: int) -> Tensor:
    """mask (B, H, W) fading to 0 over `pixels` inside its border; outside it stays 0."""
    if pixels <= 0:
        return mask
    fade = pixels + 1
    return mask * _in_bands(mask, 1, fade, lambda one: np.minimum(_distance(one) / fade, 1))


def _in_bands(
    mask: Tensor, margin: int, reach: int, change: Callable[[np.ndarray], np.ndarray]
) -> Tensor:
    """What ``change`` makes of the support of each mask (B, H, W), 0 farther than ``margin`` from
    it: the pixels around a mask decide about all within.

    It is shown a large mask band by band, so that the work can be ended between them, with
    ``reach`` rows more above and below, as far as it looks.
    """
    changed = torch.zeros_like(mask)
    for row, one in enumerate(_support(mask)):
        if not one.any():
            continue
        rows, columns = window(one, margin)
        seen, into = one[rows, columns], changed[row][rows, columns]
        height = max(BAND // seen.shape[1], 4 * reach)
        for top in range(0, len(seen), height):
            start = max(top - reach, 0)
            made = change(seen[start : top + height + reach])[top - start :][:height]
            into[top : top + height] = torch.from_numpy(made).to(mask)
    return changed


def _support(mask: Tensor) -> np.ndarray:
    return (mask > 0).numpy(force=True)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the nearest False; infinite where there is none."""
    return np.full(mask.shape, np.inf) if mask.all() else scipy.ndimage.distance_transform_edt(mask)
