"""A benchmark of a few small cases."""

from __future__ import annotations

import dataclasses
import json

import pytest

from flexedit import masks
from flexedit.benchmark.build import write_case
from flexedit.benchmark.cases import FORMAT, META, Benchmark, write_index
from flexedit.data.sample import Sample
from flexedit.data.world import World

# what is done → how many pixels are cut off the right and the bottom: scenes of two sizes
CASES = {
    "remove": (0, 0),
    "replace": (0, 0),
    "add": (10, 3),
    "swap": (0, 0),
    "insert": (0, 0),
}
OPERATION = {"swap": "replace", "insert": "add"}  # the same edit, by a subject


def sample(operation: str) -> Sample:
    """One whose mask is of a benchmark's kind; each operation has a scene of its own."""
    world = World(64, "heldout", list(CASES).index(operation), operations={operation: 1.0})
    return next(row for index in range(99) if (row := world[index]).kind in masks.KINDS)


def cut(row: Sample, right: int, bottom: int) -> Sample:
    """A row without some pixels on the right and at the bottom of its scene."""
    height, width = (row.mask.shape[0] - bottom, row.mask.shape[1] - right)
    names = ("scene", "mask", "object_mask", "target", "region")
    arrays = {name: getattr(row, name)[:height, :width] for name in names}
    return dataclasses.replace(row, **arrays)


@pytest.fixture(scope="session")
def tiny_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Five cases; two have a subject, two mean an empty place. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("benchmarks") / "tiny"
    cases = []
    for operation, pixels in CASES.items():
        named = {"name": operation, "operation": OPERATION.get(operation, operation)}
        row = dataclasses.replace(cut(sample(operation), *pixels), rotation=0.0, **named)
        cases.append(write_case(folder, "world", row))
    write_index(folder, cases)
    meta = {"format": FORMAT, "made_by": "a test", "source": "world", "seed": 0}
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")
    return Benchmark(folder)
