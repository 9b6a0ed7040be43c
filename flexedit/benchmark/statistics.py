"""Confidence intervals by the percentile bootstrap over cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import FlexEditError

CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST = 5  # cases: of fewer, the resamples are too much alike to tell how far the mean may be off


def bootstrap_mean(
    values: Sequence[float | None],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float | None, float | None]:
    """Mean of the cases that have a value, and the interval (low, high) that it lies in.

    None and NaN are cases where the metric is undefined. Fewer than FEWEST values have no
    interval: low and high are None. Raises FlexEditError if no value is left.
    """
    from scipy import stats

    numbers = np.array(values, float)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        raise FlexEditError("There is no value to average: the metric is undefined for all cases.")
    mean = float(numbers.mean())
    if len(numbers) < FEWEST:
        return mean, None, None
    interval = stats.bootstrap(
        (numbers,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return mean, float(interval.low), float(interval.high)
