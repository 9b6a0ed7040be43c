"""Confidence intervals by the percentile bootstrap over cases.

n cases, R resamples of n cases with replacement
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..errors import FlexEditError

CONFIDENCE = 0.95
RESAMPLES = 2000  # R
FEWEST = 5  # cases: of fewer, the resamples are too much alike to tell how far the mean may be off


def bootstrap_mean(
    values: Sequence[float | None],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float | None, float | None]:
    """Mean of the cases that have a value, and the interval (low, high) that it lies in.

    None is a case where the metric is undefined; fewer than FEWEST values have no interval: low
    and high are None. Raises FlexEditError if no value is left.
    """
    known = np.array([value for value in values if value is not None], float)
    if not len(known):
        raise FlexEditError("There is no value to average: the metric is undefined for all cases.")
    if len(known) < FEWEST:
        return float(known.mean()), None, None
    means = resampling(len(known), resamples, seed) @ known
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(known.mean()), float(low), float(high)


def paired_difference(
    a: Sequence[float | None],
    b: Sequence[float | None],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float | None, float | None]:
    """Mean of a − b over the cases that both have a value for, and its interval (low, high).

    ``a`` and ``b`` are one metric of two systems on the same cases in the same order. Fewer
    than FEWEST pairs have no interval. Raises FlexEditError for different lengths, or if no pair
    is left.
    """
    if len(a) != len(b):
        raise FlexEditError(
            f"{len(a)} values cannot be paired with {len(b)}; measure both on the same cases."
        )
    pairs = zip(a, b, strict=True)
    differences = [x - y for x, y in pairs if x is not None and y is not None]
    return bootstrap_mean(differences, confidence=confidence, resamples=resamples, seed=seed)


@lru_cache(maxsize=64)
def resampling(count: int, resamples: int, seed: int) -> np.ndarray:
    """(R, n): how much each case weighs in each resample; rows sum to 1."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    weights = draws / count
    weights.flags.writeable = False
    return weights
