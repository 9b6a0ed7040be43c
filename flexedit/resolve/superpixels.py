"""A picture cut into superpixels, how they touch, and the regions that they grow into.

N superpixels, E pairs of them that touch, h × w the picture's size in pixels
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, dijkstra

COMPACTNESS = 10  # SLIC's: how much nearness counts against likeness in CIELAB
COLOR_STEP = 8.0  # CIELAB units that part two regions as much as a contour of median strength


@dataclass(frozen=True)
class Superpixels:
    """labels (h, w) · area (N,) in pixels · color (N, 3) mean CIELAB · texture (N, 4) how much
    each channel varies within, and how busy the surroundings are · position (N, 2) centre (y, x) ·
    border (N,) pixels on the picture's border · pairs (E, 2) · length (E,) pixels of contour
    between a pair · contrast (E,) mean gradient along it, 1 being the picture's median.
    """

    labels: np.ndarray
    area: np.ndarray
    color: np.ndarray
    texture: np.ndarray
    position: np.ndarray
    border: np.ndarray
    pairs: np.ndarray
    length: np.ndarray
    contrast: np.ndarray

    @property
    def count(self) -> int:
        return len(self.area)

    def mean(self, plane: np.ndarray) -> np.ndarray:
        """plane (h, w) → its mean over each superpixel (N,)"""
        return _sums(self.labels, plane, self.count) / self.area

    def step(self) -> np.ndarray:
        """How much the colours of each pair differ (E,)"""
        return np.linalg.norm(self.color[self.pairs[:, 0]] - self.color[self.pairs[:, 1]], axis=1)

    def paths_from(self, sources: np.ndarray) -> np.ndarray:
        """Cost of the cheapest way from any of the sources (N, bool) to each superpixel (N,).

        A way is cheap that crosses no contour and no change of colour.
        """
        cost = 0.3 * self.contrast + self.step() / 10 + 1e-3
        graph = coo_matrix((cost, self.pairs.T), (self.count, self.count))
        return dijkstra(graph, directed=False, indices=np.flatnonzero(sources), min_only=True)

    def components(self, chosen: np.ndarray) -> np.ndarray:
        """Which connected part of the chosen ones (N, bool) each belongs to (N,)"""
        kept = self.pairs[chosen[self.pairs].all(1)].T
        graph = coo_matrix((np.ones(kept.shape[1]), kept), (self.count, self.count))
        return connected_components(graph, directed=False)[1]

    def filled(self, chosen: np.ndarray) -> np.ndarray:
        """chosen (N, bool) and whatever it encloses."""
        part = self.components(~chosen)
        outside = part[~chosen & (self.border > 0)]
        return chosen | ~np.isin(part, outside)


def superpixels(picture: np.ndarray, count: int) -> Superpixels:
    """picture (h, w, 3) in 0..1 → about `count` superpixels, by SLIC in CIELAB."""
    from skimage.color import rgb2lab
    from skimage.segmentation import slic

    lab = rgb2lab(picture).astype(np.float32)
    compactness = COMPACTNESS / max(np.ptp(lab), 1.0)  # SLIC scales what it gets to 0..1
    labels = slic(lab, count, compactness, max_num_iter=5, convert2lab=False, start_label=0)
    n = labels.max() + 1
    area = np.bincount(labels.ravel(), minlength=n).astype(np.float64)

    def means(planes: np.ndarray) -> np.ndarray:
        return np.stack([_sums(labels, plane, n) / area for plane in np.moveaxis(planes, -1, 0)], 1)

    color = means(lab)
    spread = np.sqrt(np.maximum(means(lab**2) - color**2, 0))
    detail = lab - _blur(lab, 4)
    busy = np.sqrt(ndimage.gaussian_filter((detail**2).sum(-1), 4))
    height, width = labels.shape
    edge = np.ones(labels.shape, bool)
    edge[1:-1, 1:-1] = False
    pairs, length, contrast = _contours(labels, _gradient(lab), n)
    return Superpixels(
        labels,
        area,
        color,
        np.concatenate([spread, means(busy[..., None])], 1),
        means(np.moveaxis(np.mgrid[:height, :width], 0, -1)),
        _sums(labels, edge, n),
        pairs,
        length,
        contrast / (np.median(contrast) + 1e-6) if len(contrast) else contrast,
    )


def merge(pixels: Superpixels) -> np.ndarray:
    """Every region that arises when the two most alike neighbours merge, again and again.

    → (2N − 1, N) bool for a connected picture: the superpixels themselves, then ever larger
    regions. Alike: a weak contour between them and a small step of mean colour; small ones first.
    """
    n = pixels.count
    regions = [np.arange(n) == index for index in range(n)]
    sizes = list(pixels.area)
    colors = list(pixels.color * pixels.area[:, None])
    neighbours: list[dict[int, tuple[float, float]]] = [{} for _ in range(n)]
    for (i, j), length, contrast in zip(
        pixels.pairs.tolist(), pixels.length, pixels.contrast, strict=True
    ):
        neighbours[i][j] = neighbours[j][i] = (contrast * length, length)
    typical = pixels.area.mean()

    def unlike(i: int, j: int) -> float:
        strength, length = neighbours[i][j]
        step = colors[i] / sizes[i] - colors[j] / sizes[j]
        difference = strength / length + np.sqrt(step @ step) / COLOR_STEP
        return difference * (min(sizes[i], sizes[j]) / typical) ** 0.25

    heap = [(unlike(i, j), i, j) for i, j in pixels.pairs.tolist()]
    heapq.heapify(heap)
    merged = [False] * n
    while heap:
        _, i, j = heapq.heappop(heap)
        if merged[i] or merged[j]:
            continue
        merged[i] = merged[j] = True
        new = len(regions)
        merged.append(False)
        regions.append(regions[i] | regions[j])
        sizes.append(sizes[i] + sizes[j])
        colors.append(colors[i] + colors[j])
        neighbours.append({})
        for other in (neighbours[i].keys() | neighbours[j].keys()) - {i, j}:
            if merged[other]:
                continue
            shared = [neighbours[part][other] for part in (i, j) if other in neighbours[part]]
            contour = (sum(s for s, _ in shared), sum(length for _, length in shared))
            neighbours[new][other] = neighbours[other][new] = contour
            heapq.heappush(heap, (unlike(new, other), new, other))
    return np.stack(regions)


def _sums(labels: np.ndarray, plane: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(labels.ravel(), plane.ravel(), count)


def _blur(planes: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(planes, (sigma, sigma, 0))


def _gradient(planes: np.ndarray) -> np.ndarray:
    """planes (h, w, C) → length of the gradient over all channels (h, w)"""
    steps = [
        ndimage.gaussian_gradient_magnitude(plane, 1.0) ** 2 for plane in np.moveaxis(planes, -1, 0)
    ]
    return np.sqrt(sum(steps))


def _contours(
    labels: np.ndarray, gradient: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """→ pairs that touch (E, 2), the pixels (E,) and the mean gradient (E,) along their contour"""
    keys, strengths = [], []
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        a, b = labels[one], labels[other]
        crossing = a != b
        keys.append(
            np.minimum(a, b)[crossing].astype(np.int64) * count + np.maximum(a, b)[crossing]
        )
        strengths.append((gradient[one] + gradient[other])[crossing] / 2)
    unique, index = np.unique(np.concatenate(keys), return_inverse=True)
    length = np.bincount(index, minlength=len(unique)).astype(np.float64)
    strength = np.bincount(index, np.concatenate(strengths), len(unique))
    return np.stack(np.divmod(unique, count), 1), length, strength / np.maximum(length, 1)
