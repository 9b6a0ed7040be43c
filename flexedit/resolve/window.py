"""The part of a picture that a scribble is about, small; and masks found there, in full size again.

H × W the picture's size, h × w the window's as it is looked at, K masks
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from .. import masks
from ..masks import resize

CONTEXT = 3.0  # of the scribble's size: objects that reach farther are cut off
SIDE = 224  # pixels of the longer side that is looked at
RADIUS, EPSILON = 16, 1e-4  # of the guided filter: pixels, the variance of no edge
SAME = 0.5  # IoU of a mask and its refinement


@dataclass(frozen=True)
class Window:
    """full (3, H', W'): the part of a scene in ``box`` · picture (h, w, 3): a small copy of it"""

    full: Tensor
    box: masks.Box
    picture: np.ndarray

    @classmethod
    def around(cls, scene: Tensor, mask: Tensor) -> tuple[Window, np.ndarray]:
        """scene (3, H, W), mask (H, W), not empty → the window, the scribble in it (h, w) bool"""
        (box,) = masks.bounding_crop(mask[None], CONTEXT, minimum=16)
        left, top, right, bottom = box
        full = scene[:, top:bottom, left:right]
        scale = SIDE / max(full.shape[1:])
        height, width = (max(8, round(side * scale)) for side in full.shape[1:])
        picture = resize(full[None], height, width, mode="bilinear")[0]
        window = cls(full, box, picture.movedim(0, -1).numpy(force=True))
        drawn = window.look(mask)
        return window, drawn >= drawn.max() / 2

    def look(self, plane: Tensor) -> np.ndarray:
        """plane (H, W) → the window's part of it (h, w)"""
        left, top, right, bottom = self.box
        height, width = self.picture.shape[:2]
        part = plane[None, None, top:bottom, left:right]
        return resize(part, height, width, mode="bilinear")[0, 0].numpy(force=True)

    def refine(self, found: np.ndarray) -> list[np.ndarray]:
        """found (K, h, w) bool → (H', W') bool each, with contours where the full picture has its.

        He and Sun, Fast Guided Filter (2015): within a small disc a mask is taken to be a linear
        function of the colour; it is found on the small picture and applied to the full one. Where
        colours tell so little that another mask would come of it, the mask is only enlarged.
        """
        slope, offset = guided_coefficients(self.picture, found.astype(np.float64))
        height, width = self.full.shape[1:]
        refined = []
        for one, one_slope, one_offset in zip(found, slope, offset, strict=True):
            planes = torch.from_numpy(np.concatenate([one_slope, one_offset[None]])).float()
            planes = F.interpolate(planes[None], (height, width), mode="bilinear")[0]
            soft = (planes[:3] * self.full.cpu()).sum(0) + planes[3]
            level = min(0.5, float(soft.max()))  # what is narrower than a pixel is not lost
            large = resize(torch.from_numpy(one)[None, None].float(), height, width, "bilinear")
            fine, plain = (soft >= level).numpy(), (large[0, 0] >= 0.5).numpy()
            is_other = (fine & plain).sum() < SAME * (fine | plain).sum()
            refined.append(plain if is_other and plain.any() else fine)
        return refined

    def paste(self, part: np.ndarray, height: int, width: int) -> np.ndarray:
        """part (H', W') → its place in a mask (H, W)"""
        left, top, right, bottom = self.box
        whole = np.zeros((height, width), bool)
        whole[top:bottom, left:right] = part
        return whole


def guided_coefficients(guide: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """guide (h, w, 3), planes (K, h, w) → slope (K, 3, h, w), offset (K, h, w)"""
    colors = np.moveaxis(guide, -1, 0).astype(np.float64)
    mean_color, mean = _box(colors), _box(planes)
    covariance = _box(colors * planes[:, None]) - mean_color * mean[:, None]
    spread = _box(colors[:, None] * colors) - mean_color[:, None] * mean_color
    spread = np.moveaxis(spread, (0, 1), (-2, -1)) + EPSILON * np.eye(3)
    solved = np.linalg.solve(spread, np.moveaxis(covariance, (0, 1), (-1, -2)))  # (h, w, 3, K)
    slope = np.moveaxis(solved, (-1, -2), (0, 1))
    offset = mean - (slope * mean_color).sum(1)
    return _box(slope), _box(offset)


def _box(planes: np.ndarray) -> np.ndarray:
    """planes (…, h, w) → the mean around each pixel"""
    side = 2 * RADIUS + 1
    return ndimage.uniform_filter(planes, (1,) * (planes.ndim - 2) + (side, side), mode="nearest")
