"""What a scribble alone says, before anybody looks at the picture: how likely each pixel belongs to
the object that is meant. People cover half of it, spill over its edge, or draw around it.

h × w the size in pixels
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

FAR = 3.0  # radii of the scribble; nothing changes beyond

PRIOR: dict[str, float] = {
    "inside": 1.455,
    "inside solid": 0.124,
    "enclosed": 0.976,
    "in hull": 1.228,
    "depth": 0.281,
    "depth solid": 2.889,
    "from scribble": 2.995,
    "from hull": -4.117,
    "from hull squared": 0.007,
    "bias": -2.328,
}


def scribble_prior(scribble: np.ndarray) -> np.ndarray:
    """scribble (h, w, bool), not empty → probability of belonging to the object (h, w)"""
    return probability(PRIOR, prior_features(scribble))


def prior_features(scribble: np.ndarray) -> dict[str, np.ndarray]:
    """Each (h, w). Distances are in radii of a disc as large as the scribble's convex hull."""
    from skimage.morphology import convex_hull_image

    hull = convex_hull_image(scribble)
    radius = np.sqrt(hull.sum() / np.pi)
    solidity = scribble.sum() / hull.sum()  # low: thin, open or branching
    enclosed = ndimage.binary_fill_holes(scribble) & ~scribble
    depth = _distance(hull) / radius
    away = np.minimum(_distance(~hull) / radius, FAR)
    return {
        "inside": scribble.astype(float),
        "inside solid": scribble * solidity,
        "enclosed": enclosed.astype(float),
        "in hull": (hull & ~scribble & ~enclosed).astype(float),
        "depth": depth,
        "depth solid": depth * solidity,
        "from scribble": np.minimum(_distance(~scribble) / radius, FAR),
        "from hull": away,
        "from hull squared": away**2,
    }


def probability(
    coefficients: Mapping[str, float], features: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Logistic regression: both by name, and a "bias"."""
    return 1 / (
        1 + np.exp(-coefficients["bias"] - sum(coefficients[n] * features[n] for n in features))
    )


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    kept = np.clip(probabilities, 1e-3, 1 - 1e-3)
    return np.log(kept / (1 - kept))


def _distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the nearest False; beyond the picture nothing is True."""
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
