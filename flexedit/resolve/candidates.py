"""What a scribble may mean: candidate objects, best first, and whether it means two at once.

H × W a picture's size, h × w a smaller copy's, K candidates
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

MOST = 6  # are worth a look
SAME = 0.85  # IoU above which two candidates are one
SHARE = 0.2  # of a scribble: a separate stroke this large may mean a thing of its own


class Candidate:
    """mask (H, W) bool, held as bits: a batch has thousands · confidence: the IoU with what was
    meant that is to be expected
    """

    def __init__(self, mask: np.ndarray, confidence: float) -> None:
        self._bits, self._width = np.packbits(mask, axis=1), mask.shape[1]
        self.confidence = confidence

    @property
    def mask(self) -> np.ndarray:
        return np.unpackbits(self._bits, axis=1, count=self._width).view(bool)


@dataclass(frozen=True)
class Resolution:
    """Candidates, best first; where ambiguous, the first two are different things."""

    candidates: tuple[Candidate, ...]
    ambiguous: bool


def distinct(
    regions: np.ndarray,
    area: np.ndarray | None,
    order: Sequence[int],
    look: Callable[[], None] = lambda: None,
) -> list[int]:
    """The first MOST of `order` whose regions (K, N) bool are not almost those of an earlier one.

    area (N,): what each element of a region counts; None: all the same. look: called before each.
    """
    kept: list[int] = []
    for index in order:
        one = regions[index]
        if len(kept) == MOST:
            break
        look()
        if all(iou(one, regions[other], area) < SAME for other in kept):
            kept.append(index)
    return kept


def iou(one: np.ndarray, other: np.ndarray, area: np.ndarray | None) -> float:
    if area is None:
        return np.count_nonzero(one & other) / np.count_nonzero(one | other)
    return float(area[one & other].sum() / area[one | other].sum())


def halves(scribble: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """scribble (h, w) bool → its two strokes if it has two large ones, else its two ends (h, w).

    A scribble that means one thing means it with either half. The second may be empty.
    """
    margin = max(1, round(0.04 * np.sqrt(scribble.sum())))
    joined = ndimage.binary_dilation(scribble, iterations=margin)
    strokes, _ = ndimage.label(joined, np.ones((3, 3)))
    sizes = np.bincount((strokes * scribble).ravel())
    sizes[0] = 0
    largest = np.argsort(-sizes)[:2]
    if len(largest) == 2 and sizes[largest[1]] >= SHARE * sizes.sum():
        to_first, to_second = (
            ndimage.distance_transform_edt(strokes != number) for number in largest
        )
        first = scribble & (to_first <= to_second)
    else:
        places = np.argwhere(scribble)
        _, _, axes = np.linalg.svd(places - places.mean(0), full_matrices=False)
        along = places @ axes[0]
        first = np.zeros_like(scribble)
        first[tuple(places[along <= np.median(along)].T)] = True
    return first, scribble & ~first
