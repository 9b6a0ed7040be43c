"""Painting a mask over a scene, and reading back what a model painted (§3.3).

B batch, H × W height and width in pixels. Pictures are float (B, 3, H, W) in 0..1,
masks float (B, H, W) with 1 = edit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
import torch
from torch import Tensor

from ..errors import FlexEditError
from .prepare import common_batch, fit, prepare_picture

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 0.8, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "purple": (0.5, 0.0, 0.8),
    "orange": (1.0, 0.55, 0.0),
    "pink": (1.0, 0.4, 0.75),
    "cyan": (0.0, 0.9, 0.9),
}

SPECK = 0.002  # of the picture: smaller islands and holes of a mask that was read back are noise


def paint(
    scene: Tensor,
    mask: Tensor,
    alpha: float = 0.5,
    color: Sequence[float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """scene (B, 3, H, W) with mask (B, H, W) painted over it, white at α 0.5 by default."""
    opacity = alpha * mask.to(scene).unsqueeze(1)
    return torch.lerp(scene, scene.new_tensor(color).view(1, 3, 1, 1).expand_as(scene), opacity)


def read_painted(
    scene: Tensor,
    painted: Tensor,
    color: Sequence[float] | None = None,
    threshold: float = 0.5,
) -> Tensor:
    """The full mask (B, H, W) of 0 and 1 that a `segment` edit painted over the scene (§3.3).

    scene, painted (B, 3, H, W). A pixel is painted when it moved at least `threshold` of the way
    from the scene to the paint `color` (by default estimated from the pixels that changed most).
    Where the scene has the paint's own colour no move can be seen: there the neighbours decide.
    """
    if scene.shape != painted.shape:
        raise FlexEditError(
            f"The scene is {tuple(scene.shape)} but the painted picture {tuple(painted.shape)}; "
            "decode the segment task of this very scene."
        )
    return torch.stack(
        [
            _read_one(before, after, color, threshold)
            for before, after in zip(scene.float(), painted.float(), strict=True)
        ]
    )


def _read_one(
    scene: Tensor, painted: Tensor, color: Sequence[float] | None, threshold: float
) -> Tensor:
    moved = painted - scene
    size = moved.square().sum(0).sqrt()
    strongest = size.flatten().kthvalue(max(1, int((1 - SPECK) * size.numel()))).values
    if strongest < 0.1:
        return torch.zeros_like(size)
    if color is None:
        paint_color = painted[:, size >= 0.7 * strongest].median(dim=1).values
    else:
        paint_color = scene.new_tensor(color)
    way = paint_color.view(3, 1, 1) - scene
    distance = way.square().sum(0)
    progress = ((moved * way).sum(0) / distance.clamp_min(1e-4)).clamp(-0.5, 1.5)
    off_way = (painted - paint_color.view(3, 1, 1)).square().sum(0).sqrt()
    progress = progress - (off_way - 0.8).clamp_min(0)  # it moved, but to another colour

    certain = (distance / (distance + 0.04)).numpy(force=True)
    seen = certain * progress.numpy(force=True)
    sigma = max(1.0, min(seen.shape) / 32)
    around = scipy.ndimage.gaussian_filter(seen, sigma)
    around /= scipy.ndimage.gaussian_filter(certain, sigma) + 1e-6
    mask = seen + (1 - certain) * around >= threshold
    return torch.from_numpy(tidy(mask)).to(scene)


def tidy(mask: np.ndarray) -> np.ndarray:
    """mask (H, W) without specks, islands below a tenth of the largest, and small holes."""
    speck = SPECK * mask.size
    labels, num_islands = scipy.ndimage.label(mask, np.ones((3, 3)))
    if num_islands:
        areas = np.bincount(labels.ravel())
        areas[0] = 0
        mask = (areas >= max(speck, 0.1 * areas.max()))[labels]
    holes, _ = scipy.ndimage.label(~mask)
    return mask | (np.bincount(holes.ravel(), minlength=1) < speck)[holes]


def read_mask(scene: Tensor, painted: Tensor) -> Tensor:
    """scene, painted (B, C, H, W), one picture or the same number → what was painted (B, H, W)."""
    scene = prepare_picture(scene, "scene")
    painted = prepare_picture(painted, "painted picture").to(scene.device)
    painted = fit(painted, *scene.shape[2:])
    batch = common_batch({"scene": scene.shape[0], "painted": painted.shape[0]})
    return read_painted(scene.expand(batch, -1, -1, -1), painted.expand(batch, -1, -1, -1))
