"""What no step of a stage changes, computed once: latents, CLIP's tokens, the captions' texts, and
what a VLLM says that does not learn.

A cache is a window on an endless sequence of samples: a step draws its rows from the ``rows``
samples that are in it, and when each of them has been drawn ``reuse`` times on average, a part of
them has made room for new ones. It lies on disk as memory-mapped float16, a file for each part and
thing. Which sample comes when is arithmetic, so a run that goes on sees the same.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.sample import Sample
from ..errors import FlexEditError
from .batch import Batch, Samples, collate
from .processes import wait_until

PARTS = 16  # of a window: so many times it changes until it is another one
AT_ONCE = 64  # rows that a model computes together


@dataclass(frozen=True)
class CacheConfig:
    """rows: samples in the window; their features take, in the mini, 43 kB each · reuse: how often
    each is drawn, on average, before a new one takes its place · vllm: also the states of the edit
    tokens, after one reply and one phrase for each row; of a 7B model 262 kB
    """

    rows: int
    reuse: float = 4.0
    vllm: bool = False

    def __post_init__(self) -> None:
        if self.rows < PARTS or self.rows % PARTS:
            raise FlexEditError(f"cache.rows is {self.rows}; choose a multiple of {PARTS}.")
        if not (math.isfinite(self.reuse) and self.reuse * self.part >= 1):
            raise FlexEditError(f"cache.reuse is {self.reuse}; choose more.")

    @property
    def part(self) -> int:
        return self.rows // PARTS

    def row(self, seed: int, index: int) -> int:
        """Which sample comes at an index."""
        first = int(index / (self.reuse * self.part)) * self.part
        return first + int(np.random.default_rng([seed, index]).integers(self.rows))

    def needed(self, index: int) -> range:
        """The parts that are in the window at an index."""
        first = int(index / (self.reuse * self.part))
        return range(first, first + PARTS)


class Cached:
    """Samples with their features, out of a window.

    remember: what a model makes of a batch, by name (B, …), and of the number of its first sample ·
    processes: accelerate's state
    """

    def __init__(
        self,
        samples: Samples,
        config: CacheConfig,
        folder: Path,
        remember: Callable[[Batch, int], Mapping[str, Tensor]],
        device: torch.device,
        processes: Any,
        seed: int = 0,
    ) -> None:
        self.samples, self.config, self.seed = samples, config, seed
        self.folder = folder / f"{seed}-{config.rows}"  # which sample lies where depends on these
        self.remember, self.device, self.processes = remember, device, processes
        self.made: set[int] = set()

    @property
    def parts(self) -> Sequence[Any]:
        """The data sets, if it is of a mixture"""
        return getattr(self.samples, "parts", ())

    @property
    def max_bad(self) -> int:
        return getattr(self.samples, "max_bad", 0)

    def __getstate__(self) -> dict[str, Any]:
        """What workers get: they read what is there."""
        return {**vars(self), "remember": None, "processes": None, "device": None}

    def __getitem__(self, index: int) -> Sample:
        row = self.config.row(self.seed, index)
        part, place = divmod(row, self.config.part)
        features = {name: array[place] for name, array in opened(self.part(part)).items()}
        return replace(self.samples[row], features=features)

    def part(self, number: int) -> Path:
        return self.folder / f"part-{number}"

    def prepare(self, first: int, last: int) -> None:
        """Computes what the samples first … last need and is not there; what is no longer needed is
        removed. All processes call it, and each computes its share of the parts.
        """
        wanted = set(self.config.needed(first)) | set(self.config.needed(last))
        if wanted <= self.made:
            return
        for number in sorted(wanted - self.made):
            is_ours = number % self.processes.num_processes == self.processes.process_index
            if is_ours and not self.part(number).is_dir():
                self.write(number)
        wait_until(lambda: all(self.part(number).is_dir() for number in wanted))
        self.processes.wait_for_everyone()
        if self.processes.is_main_process:
            for path in self.folder.glob("part-*"):
                if int(path.name.removeprefix("part-")) < min(wanted):
                    shutil.rmtree(path)
        self.made = wanted

    @torch.no_grad()
    def write(self, number: int) -> None:
        unfinished = self.folder / f"unfinished-{self.processes.process_index}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        files: dict[str, np.memmap] = {}
        size = self.config.part
        for start in range(0, size, AT_ONCE):
            rows = range(start, min(start + AT_ONCE, size))
            first = number * size + start
            batch = collate([self.samples[first + row] for row in range(len(rows))])
            for name, values in self.remember(batch.to(self.device), first).items():
                if name not in files:
                    files[name] = np.lib.format.open_memmap(
                        unfinished / f"{name}.npy", "w+", np.float16, (size, *values.shape[1:])
                    )
                files[name][rows.start : rows.stop] = values.half().cpu().numpy()
        for file in files.values():
            file.flush()
        unfinished.rename(self.part(number))


@lru_cache(maxsize=2 * PARTS)
def opened(folder: Path) -> dict[str, np.ndarray]:
    """The features of a part, by name, where they lie on disk."""
    return {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
