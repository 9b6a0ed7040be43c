"""Runs a system on a benchmark: batched by size, seeded by case, resumable after any end.

Files of a run are ``<out>/<system>/``: ``system.json`` (what was run on what), ``results.jsonl``
(one line per case, mask form and task, appended after each batch) and
``<task>-<form>/<case id>.png``. H × W the size of a case's scene
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image
from pydantic.dataclasses import dataclass

from .. import __version__
from ..errors import FlexEditError
from ..files import Ledger, fingerprint, picture_size, read_json, read_picture
from ..prompts import BACKGROUND
from ..validation import STRICT, validated
from .cases import FORMS, Benchmark, Case, MaskForm
from .editors import Answer, BenchmarkTask, Editor, Work, folder_name, one_line

FORMAT = 1
SYSTEM = "system.json"
RESULTS = "results.jsonl"
REVIEWED = ("review", "note")  # a review says something about a case and is not part of it
PNG_LEVEL = 1  # a picture is read a few times only: fast beats small

Key = tuple[str, str, str]  # case id, form, task


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Result:
    """What became of one case, for one form of mask and one task; its picture lies beside."""

    case: str
    form: MaskForm
    task: BenchmarkTask
    status: Literal["ok", "failed"]
    error: str = ""  # one line, "" if ok
    seconds: float  # its share of the time that the system took for its batch
    reply: str = ""
    label: str = ""

    @property
    def key(self) -> Key:
        return self.case, self.form, self.task


class Run:
    """A run on disk, finished or not. Opening it reads the results, no pictures."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.system: dict[str, Any] = read_json(self.folder / SYSTEM)
        except FlexEditError as error:
            raise FlexEditError(
                f"{self.folder} is not a run: {SYSTEM} cannot be read ({error}). "
                "Make one with `python -m flexedit bench run`."
            ) from error
        self.results = tuple(read_results(self.folder))

    @cached_property
    def _by_key(self) -> dict[Key, Result]:
        return {result.key: result for result in self.results}

    def result(self, case: str, form: str = "free", task: str = "edit") -> Result | None:
        """None where nothing was run: not yet, or because there is no such task."""
        return self._by_key.get((case, form, task))

    def picture(
        self, case: str | Result, form: str = "free", task: str = "edit"
    ) -> np.ndarray | None:
        """The output (H, W, 3) uint8 for a result, or for a case's id; None if it failed.

        Raises FlexEditError where nothing was run, or where the file is gone.
        """
        key = case.key if isinstance(case, Result) else (case, form, task)
        result = self._by_key.get(key)
        if result is None:
            raise FlexEditError(
                f"{self.folder} has no {key[2]} of case {key[0]!r} with its {key[1]} mask. "
                "Finish it: run `python -m flexedit bench run` again."
            )
        if result.status != "ok":
            return None
        try:
            return read_picture(picture_path(self.folder, key))
        except FlexEditError as error:
            raise FlexEditError(f"{error} Delete {self.folder} and run again.") from error


def run(
    benchmark: Benchmark,
    system: Editor,
    out: str | Path,
    *,
    forms: Sequence[str] = FORMS,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> Run:
    """Runs ``system`` on all kept cases and writes ``out/<system's name>``; goes on where it was.

    A case's noise depends on ``seed`` and its id alone, so neither batches nor their order change
    a result. A case that fails is recorded as such, and is not tried again. ``segment`` is run for
    the cases whose mask means an object, by systems that paint. ``progress``: a bar on standard
    error. Raises FlexEditError if the folder holds another run, or the benchmark cannot be read.
    """
    begin = time.perf_counter()
    if batch_size < 1:
        raise FlexEditError(f"batch_size is {batch_size}; it must be at least 1.")
    if unknown := [form for form in forms if form not in FORMS]:
        raise FlexEditError(f"Unknown mask form {unknown[0]!r}; choose from {', '.join(FORMS)}.")
    if folder_name(Path(system.name)) != system.name:
        raise FlexEditError(
            f"The system's name {system.name!r} cannot be a folder's; "
            "use letters, digits, '.', '_' and '-'."
        )
    folder = Path(out) / system.name
    about = open_folder(folder, identity(benchmark, system, seed))
    done = {result.key for result in read_results(folder)}
    distinct = [form for form in FORMS if form in forms]
    works = pending(benchmark, system, distinct, seed, batch_size, done)
    if works:
        spent = carry_out(works, system, folder, len(done), progress)
        spent["total"] = time.perf_counter() - begin
        write_json(folder / SYSTEM, {**about, "seconds": spent})
    return Run(folder)


def overhead(run: Run) -> float:
    """The runner's own time as a fraction of the system's, in the last call that had work to do.

    Its own is all but ``Editor.load`` and ``Editor.answer``: reading scenes, masks and subjects,
    writing outputs and records, checking that nothing has changed.
    """
    seconds = run.system.get("seconds")
    if seconds is None:
        raise FlexEditError(f"{run.folder} was never finished, so its time is unknown. Run again.")
    return (seconds["total"] - seconds["load"] - seconds["answer"]) / seconds["answer"]


# The folder


def identity(benchmark: Benchmark, system: Editor, seed: int) -> dict[str, Any]:
    """What a run's results depend on, and the version that made them, as JSON."""
    rows = [
        {key: value for key, value in asdict(case).items() if key not in REVIEWED}
        for case in benchmark.cases
    ]
    files = [file for case in benchmark.cases for file in benchmark.files(case)]
    about = {
        "format": FORMAT,
        "made_by": f"flexedit {__version__}",
        "name": system.name,
        "settings": system.describe(),
        "benchmark": fingerprint(files, json.dumps(rows)),
        "seed": seed,
    }
    if system.made_with is not None:
        about["made_with"] = system.made_with
    return json.loads(json.dumps(about))


def open_folder(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Makes the folder of a run, or checks that the run in it is the same → its ``system.json``."""
    if not (folder / SYSTEM).exists():
        if (folder / RESULTS).exists():
            raise FlexEditError(f"{folder} has results but no {SYSTEM}. Delete it and run again.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SYSTEM, about)
    known = Run(folder).system
    if known.get("benchmark") != about["benchmark"]:
        changed = ["it was made on another benchmark, or the cases have changed since"]
    else:
        ignored = ["made_by", "seconds"]
        if "made_with" not in known:  # as in a run of an older version
            ignored.append("made_with")
        then, now = flat(known), flat(about)
        changed = [
            f"{key} was {then.get(key)!r} and is {now.get(key)!r}"
            for key in sorted(then.keys() | now.keys())
            if key.partition(".")[0] not in ignored and then.get(key) != now.get(key)
        ]
    if changed:
        raise FlexEditError(
            f"{folder} holds another run: {'; '.join(changed)}. Choose another folder for the "
            "results or another name for the system, or delete this folder."
        )
    return known


def flat(nested: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}"""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        inner = isinstance(value, dict)
        found |= flat(value, f"{before}{key}.") if inner else {before + key: value}
    return found


def write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_results(folder: Path) -> list[Result]:
    """[] if there are none."""
    file = folder / RESULTS
    where = f"{file} is not of a run: delete {folder} and run again. One of its lines"
    return [validated(Result, row, where) for row in Ledger(file).rows()]


def picture_path(folder: Path, key: Key) -> Path:
    case, form, task = key
    return folder / f"{task}-{form}" / f"{case}.png"


# What is to be done


def pending(
    benchmark: Benchmark,
    system: Editor,
    forms: Sequence[str],
    seed: int,
    batch_size: int,
    done: set[Key],
) -> deque[Work]:
    """Batches of the cases without a result. They are cut before what is done is left out, so a
    run that goes on has the same batches as one that was never interrupted.
    """
    works: deque[Work] = deque()
    tasks: list[BenchmarkTask] = ["edit", "segment"] if system.paints else ["edit"]
    for task in tasks:
        cases = [case for case in benchmark.kept if task == "edit" or case.label != BACKGROUND]
        for batch in batches(benchmark, cases, task, batch_size):
            for form in forms:
                left = tuple(case for case in batch if (case.id, form, task) not in done)
                if left:
                    seeds = tuple(case_seed(seed, case) for case in left)
                    works.append(Work(benchmark, left, cast(MaskForm, form), task, seeds))
    return works


def batches(
    benchmark: Benchmark, cases: Iterable[Case], task: str, batch_size: int
) -> Iterator[list[Case]]:
    """Cases whose scenes have one size, and whose subjects have one where the task reads them."""
    groups: dict[Any, list[Case]] = {}
    for case in cases:
        read = [case.scene, case.subject] if task == "edit" and case.subject else [case.scene]
        sizes = tuple(picture_size(benchmark.folder / file, upright=False) for file in read)
        groups.setdefault(sizes, []).append(case)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def case_seed(seed: int, case: Case) -> int:
    """The same on every machine, and for both forms of a case's mask."""
    return zlib.crc32(f"{seed} {case.id}".encode())


# Doing it


def carry_out(
    works: deque[Work], system: Editor, folder: Path, num_done: int, progress: bool
) -> dict[str, float]:
    """Answers and records each batch → the seconds that the system took to load and to answer."""
    from tqdm import tqdm

    begin = time.perf_counter()
    system.load()
    spent = {"load": time.perf_counter() - begin, "answer": 0.0}
    total = num_done + sum(len(work.cases) for work in works)
    bar = tqdm(desc=system.name, total=total, initial=num_done, unit="case", disable=not progress)
    num_failed = 0
    ledger = Ledger(folder / RESULTS)
    with bar:
        while works:
            results, seconds = attempt(works.popleft(), system, folder)
            spent["answer"] += seconds
            ledger.add(asdict(result) for result in results)
            bar.update(len(results))
            num_failed += [result.status for result in results].count("failed")
            if num_failed:
                bar.set_postfix(failed=num_failed)
    return spent


def attempt(work: Work, system: Editor, folder: Path) -> tuple[list[Result], float]:
    """Answers a batch and writes its pictures → its results, and the seconds spent answering.

    A batch that fails is tried again case by case, so that one bad case takes no other with it.
    """
    # Read now, so that its time does not count as answering.
    size = (work.request.height, work.request.width)
    failure: str | None = None
    begin = time.perf_counter()
    try:
        answers = system.answer(work)
        check(answers, len(work.cases), size)
    except Exception as error:  # whatever a system may raise
        failure = one_line(error)  # not the error itself: its frames hold the batch's memory
    seconds = time.perf_counter() - begin
    if failure is None:
        return keep(answers, work, seconds, folder), seconds
    if len(work.cases) == 1:
        case = work.cases[0]
        return [result_of(work, case, status="failed", error=failure, seconds=seconds)], seconds
    results = []
    for case, seed in zip(work.cases, work.seeds, strict=True):
        alone, more = attempt(replace(work, cases=(case,), seeds=(seed,)), system, folder)
        results += alone
        seconds += more
    return results, seconds


def keep(answers: Sequence[Answer], work: Work, seconds: float, folder: Path) -> list[Result]:
    """Writes the pictures of a batch that took ``seconds``."""
    results = []
    for case, answer in zip(work.cases, answers, strict=True):
        said = {"reply": answer.reply, "label": answer.label}
        result = result_of(work, case, status="ok", seconds=seconds / len(answers), **said)
        path = picture_path(folder, result.key)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(answer.picture).save(path, compress_level=PNG_LEVEL)
        results.append(result)
    return results


def result_of(work: Work, case: Case, **more: Any) -> Result:
    return Result(case=case.id, form=work.form, task=work.task, **more)


def check(answers: Sequence[Answer], count: int, size: tuple[int, int]) -> None:
    """Raises FlexEditError unless there are ``count`` answers of ``size`` (H, W)."""
    if len(answers) != count:
        raise FlexEditError(f"The system gave {len(answers)} answers for {count} cases.")
    for answer in answers:
        picture = answer.picture
        if picture.dtype != np.uint8 or picture.shape != (*size, 3):
            raise FlexEditError(
                f"The output is a {picture.dtype} array of shape {picture.shape}; "
                f"the scene's is uint8 and {(*size, 3)}."
            )
