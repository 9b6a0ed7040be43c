"""What all variants of a study are run on."""

from __future__ import annotations

from pathlib import Path

from flexedit.benchmark.build import build
from flexedit.benchmark.cases import Benchmark, Case

CASES_SEED = 11


def cases(folder: Path, num_single: int, num_multi: int) -> Benchmark:
    """What all variants are run on, in ``folder/cases``; the same wherever it is built."""
    path = folder / "cases"
    if not path.is_dir():
        return build(path, seed=CASES_SEED, num_single=num_single, num_multi=num_multi)
    return Benchmark(path)


def first_of_each(benchmark: Benchmark) -> list[Case]:
    """The first case of each operation of each group: those that are shown."""
    first: dict[tuple[str, str], Case] = {}
    for case in benchmark.kept:
        first.setdefault((case.group, case.operation), case)
    return list(first.values())
