"""Which row of which data set comes at which index of an endless sequence, by arithmetic alone.

So a run that resumes, or that another number of processes shares, sees the same rows. A data set
with an index gives all its rows in another order each time round. One that is a stream is read in
lanes: each is a stretch of its rows, read from its beginning to its end. Of neighbouring indices 16
are in one lane, and a lane comes again every 32 × 16; so what a process or a worker reads of a
batch is from the same few lanes each time, and files are read on rather than opened anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import FlexEditError

CHUNK, LANES = 16, 32
LENGTH = 24 * CHUNK * LANES  # after which the pattern of data sets begins anew
WINDOW = 32  # rows of a lane that are in memory, and come in any order


@dataclass(frozen=True)
class Draw:
    """source: which data set · number: how many rows of it came before, in any lane ·
    place: how many in this lane · first, last, total: the lane has first/total to last/total of
    the rows
    """

    source: int
    number: int
    place: int
    first: int = 0
    last: int = 1
    total: int = 1

    def stretch(self, num_rows: int) -> range:
        """The rows of the lane"""
        return range(num_rows * self.first // self.total, num_rows * self.last // self.total)


class Pattern:
    """`pattern[index]` is a `Draw`. Each data set has its share by weight of all indices.

    sizes: rows of each data set; a small one has fewer lanes. Raises FlexEditError for weights of
    which one has less than one row in 12,288.
    """

    def __init__(self, weights: Sequence[float], sizes: Sequence[int], seed: int) -> None:
        counts = shares(weights)
        rng = np.random.default_rng([seed, LENGTH])
        self.source = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        self.counts = counts
        lanes = np.clip(np.array(sizes) // (8 * WINDOW), 1, LANES)
        chunk = np.arange(LENGTH) // CHUNK % LANES
        self.lane = chunk * lanes[self.source] // LANES
        self.by_lane = np.zeros((len(counts), LANES), int)
        self.number, self.place = np.zeros(LENGTH, int), np.zeros(LENGTH, int)
        for index, (source, lane) in enumerate(zip(self.source, self.lane, strict=True)):
            self.number[index] = self.by_lane[source].sum()
            self.place[index] = self.by_lane[source, lane]
            self.by_lane[source, lane] += 1
        self.before = np.cumsum(self.by_lane, 1) - self.by_lane

    def __getitem__(self, index: int) -> Draw:
        round_number, index = divmod(index, LENGTH)
        source, lane = int(self.source[index]), int(self.lane[index])
        total, mine = int(self.counts[source]), int(self.by_lane[source, lane])
        first = int(self.before[source, lane])
        return Draw(
            source,
            round_number * total + int(self.number[index]),
            round_number * mine + int(self.place[index]),
            first,
            first + mine,
            total,
        )


def shares(weights: Sequence[float]) -> np.ndarray:
    """How many of LENGTH rows each has; what is left by rounding goes where most was cut off."""
    exact = LENGTH * np.array(weights, float) / sum(weights)
    counts = exact.astype(int)
    most_cut = np.argsort(counts - exact, kind="stable")
    counts[most_cut[: LENGTH - counts.sum()]] += 1
    if not counts.all():
        smallest = min(weights) / sum(weights)
        raise FlexEditError(
            f"a weight in the mixture is {smallest:.1g} of all; leave this data set out, or give "
            f"it {1 / LENGTH:.1g} at least."
        )
    return counts
