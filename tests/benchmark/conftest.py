"""A benchmark of a few small cases, written straight in the format, without the builder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexedit import masks
from flexedit.benchmark.cases import FILES, FORMAT, META, Benchmark, Case, write_index
from flexedit.data.sample import Sample
from flexedit.data.world import World
from flexedit.data.world.assets import CLASSES
from flexedit.prompts import BACKGROUND

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


def write_case(folder: Path, name: str, row: Sample, cut: tuple[int, int] = (0, 0)) -> Case:
    """One row as a case; ``cut`` pixels are cut off the right and the bottom of its scene."""
    height, width = (side - less for side, less in zip(row.mask.shape, cut[::-1], strict=True))
    arrays = {
        "scene": row.scene,
        "mask": row.mask,
        "full_mask": row.object_mask,
        "truth": row.target,
        "region": row.region,
        "subject": row.subject,
    }
    files: dict[str, str | None] = dict.fromkeys(FILES)
    for part, array in arrays.items():
        if array is None:
            continue
        files[part] = f"{part}/{name}.png"
        array = array if part == "subject" else array[:height, :width]
        path = folder / part / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == bool else array).save(path)
    named = (one for one in CLASSES if one != row.label and re.search(rf"\b{one}\b", row.caption))
    return Case(
        id=name,
        group="single" if row.subject is None else "multi",
        operation=OPERATION.get(row.operation, row.operation),
        kind=row.kind,
        orientation=0.0,
        setting="none",
        subject_setting=None if row.subject is None else "simple",
        instruction=row.instruction,
        label=row.label,
        result_label=next(named, BACKGROUND),
        caption=row.caption,
        source="world",
        **files,  # type: ignore[arg-type]
    )


def write_benchmark(folder: Path, cases: list[Case]) -> Benchmark:
    meta = {"format": FORMAT, "made_by": "a test", "source": "world", "seed": 0}
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")
    write_index(folder, cases)
    return Benchmark(folder)


@pytest.fixture(scope="session")
def tiny_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Five cases; two have a subject, two mean an empty place. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("benchmarks") / "tiny"
    cases = [
        write_case(folder, f"world-{operation}", sample(operation), cut)
        for operation, cut in CASES.items()
    ]
    return write_benchmark(folder, cases)
