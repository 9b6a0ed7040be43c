"""Building FSMI-Edit: a plan of slots, a source that fills them, a folder that holds it all.

The paper's numbers (§3.4): 80 cases with one picture, 125 with a subject, 8 kinds of free shape.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import __version__
from ..data.readers import data_set, usage
from ..data.sample import Sample
from ..data.world.words import article
from ..errors import FlexEditError
from ..masks import KINDS
from ..prompts import BACKGROUND
from ..validation import validated
from .cases import FILES, FORMAT, INDEX, META, OPERATIONS, Benchmark, Case, write_index
from .sources import SUBJECT_SETTINGS, ReaderSource, Slot, Source, WorldSource

NUM_SINGLE, NUM_MULTI = 80, 125
MEASURED = ("coco", "magicbrush")  # data sets whose rows say operation and object


def build(
    out: str | Path,
    *,
    seed: int = 0,
    num_single: int = NUM_SINGLE,
    num_multi: int = NUM_MULTI,
    source: Source | str = "world",
    size: int = 64,
    framing: str = "whole",
) -> Benchmark:
    """Writes a benchmark into the folder ``out``. The same arguments write the same bytes.

    source: where cases come from, also as text, see :func:`source_from` · size: pixels a side of
    the world's scenes; those of other sources keep their own size · framing: of the world's scenes.
    An earlier benchmark in ``out`` is replaced, unless people have reviewed it. Raises
    FlexEditError for that, for any other content of ``out``, and for a source that cannot give
    what is asked for; then ``out`` is as it was.
    """
    if min(seed, num_single, num_multi) < 0 or num_single + num_multi == 0:
        raise FlexEditError(
            f"There is nothing to build: seed {seed}, {num_single} single and {num_multi} multi "
            "cases. None may be negative, and one case is the least."
        )
    out = Path(out).resolve()
    refuse_to_harm(out)
    if isinstance(source, str):
        source = source_from(source, size, framing)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            folder = Path(scratch, "new")
            folder.mkdir()
            write(folder, source, plan(num_single, num_multi), seed)
            if out.exists():
                os.replace(out, Path(scratch, "old"))
            os.replace(folder, out)
    except OSError as error:
        raise FlexEditError(f"{out} cannot be written ({error}).") from error
    return Benchmark(out)


def source_from(text: str, size: int = 64, framing: str = "whole") -> Source:
    """``world``, ``world:STYLE``, ``coco:ANNOTATIONS.json,PICTURES,EDITS.jsonl`` or
    ``magicbrush:FOLDER``
    """
    name, _, where = text.partition(":")
    if text == "world" or (name == "world" and where):
        return WorldSource(size, where or None, framing)
    if name in MEASURED and (reader := data_set(text)):
        return ReaderSource(reader)
    given = f"world, world:STYLE, {usage(*MEASURED)}"
    raise FlexEditError(f"Unknown source {text!r}; give {given}.")


def plan(num_single: int, num_multi: int) -> list[Slot]:
    """The slots of both groups: their kinds even to one, and even within every operation."""
    return [*rounds("single", num_single, OPERATIONS), *rounds("multi", num_multi, OPERATIONS[:2])]


def rounds(group: str, count: int, operations: Sequence[str]) -> Iterator[Slot]:
    """Each round has every kind once; from round to round all else moves on by one place."""
    for number in range(count):
        turn, place = divmod(number, len(KINDS))
        setting = SUBJECT_SETTINGS[(turn // len(operations) + place // len(operations)) % 2]
        yield Slot(
            group,
            KINDS[place],
            operations[(place + turn) % len(operations)],
            setting if group == "multi" else None,
        )


def write(folder: Path, source: Source, slots: Sequence[Slot], seed: int) -> None:
    cases = [write_case(folder, source.name, sample) for sample in source.samples(slots, seed)]
    assert len(cases) == len(slots)
    write_index(folder, cases)
    meta = {
        "format": FORMAT,
        "made_by": f"flexedit {__version__}",
        "source": source.name,
        "seed": seed,
        "num_single": sum(case.group == "single" for case in cases),
        "num_multi": sum(case.group == "multi" for case in cases),
        **source.describe(),
    }
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    (folder / META).write_text(text, encoding="utf-8", newline="\n")


def write_case(folder: Path, source: str, sample: Sample) -> Case:
    """Writes the pictures of a case."""
    name = f"{source}-{sample.name}"
    pictures = {
        "scene": sample.scene,
        "mask": sample.mask,
        "full_mask": sample.object_mask,
        "truth": sample.target,
        "region": sample.region,
        "subject": sample.subject,
    }
    files: dict[str, Any] = {}
    for part, array in pictures.items():
        if array is None:
            continue
        array = array.astype(np.uint8) * 255 if array.dtype == bool else array
        files[part] = f"{part}/{name}.png"
        (folder / part).mkdir(parents=True, exist_ok=True)
        if (folder / files[part]).exists():
            raise FlexEditError(f"The source has two rows that are both called {name}.")
        Image.fromarray(array).save(folder / files[part])
    assert sample.rotation is not None
    row = {
        "id": name,
        "group": "single" if sample.subject is None else "multi",
        "operation": sample.operation,
        "kind": sample.kind,
        "orientation": round(sample.rotation % 360, 1),
        "setting": sample.setting,
        "subject_setting": sample.subject_setting,
        "instruction": sample.instruction,
        "label": sample.label,
        "result_label": sample.result_label,
        "caption": caption(sample.result_label),
        "source": source,
    }
    return validated(Case, row | files, name)


def caption(result_label: str) -> str:
    """What CLIP-T compares the edited region with; "" where nobody knows what is there."""
    if result_label == BACKGROUND:
        return "a photo of the background"
    return f"a photo of {article(result_label)}" if result_label else ""


def refuse_to_harm(out: Path) -> None:
    """Raises FlexEditError unless ``out`` is absent, empty, or but an unreviewed benchmark."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    advice = "Choose another folder, or delete this one yourself."
    if not (out / META).is_file():
        raise FlexEditError(f"{out} exists and is not a benchmark. {advice}")
    if foreign := {path.name for path in out.iterdir()} - {INDEX, META, *FILES}:
        raise FlexEditError(f"{out} also holds {', '.join(sorted(foreign))}. {advice}")
    reviewed = sum(bool(case.note) or case.review != "open" for case in Benchmark(out).cases)
    if reviewed:
        raise FlexEditError(f"{out} has {reviewed} cases that people have reviewed. {advice}")
