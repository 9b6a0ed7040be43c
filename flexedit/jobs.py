"""Many edits from a list: which are done, which failed, which are still to do.

``results.jsonl``, the journal, gets a line when an edit is over, so that a batch which was stopped
goes on where it was, and several processes can share one. A picture gets its name last: until its
line is written it lies in ``.partial``.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from .data.record import Record
from .errors import FlexEditError
from .files import Ledger, fingerprint, line_of, read_records, unwritable

RESULTS = "results.jsonl"
PARTIAL = ".partial"
GIVEN = ("scene", "instruction", "mask", "subject", "task", "seed", "out")  # what makes an edit
LATEST = 100  # edits, that tell how fast it goes
# what a line of the journal says, as far as it is read; one that says it otherwise counts as none
TEXTS = dict.fromkeys(("out", "server", "sent"), str)
KINDS: dict[str, Any] = {**TEXTS, "at": (int, float), "made": dict, "run": dict}
LOCK = re.compile(r"\.part-(\d+)-of-(\d+)\.lock")

Part = tuple[int, int]  # the first, and every how many-th: (1, 1) is the whole list
Row = dict[str, Any]


# The list


def read_jobs(file: Path, out: Path, within: Path | None = None) -> list[Record]:
    """Raises FlexEditError for a list that cannot be read, for results in the folder ``out`` that
    could not be written or would overwrite something, and for pictures that are not in the folder
    ``within``, if one is named.
    """
    jobs: dict[str, Record] = {}
    for number, (line, job) in enumerate(read_records(Record, file).items(), 1):
        where = line_of(file, line)
        if job.complaint:
            raise FlexEditError(f"{where}: {job.complaint}")
        if job.task == "ask":
            raise FlexEditError(f"{where}: task is 'ask'; choose one of edit, segment.")
        if not 0 <= job.seed < 2**63:
            raise FlexEditError(f"{where}: seed is {job.seed}; it must be in 0 … 2^63 - 1.")
        jobs[where] = replace(job, out=job.out or usual_name(number, job.scene))
    outs = {where: job.out for where, job in jobs.items()}
    names = {where: pictures(job) for where, job in jobs.items()}
    read = {where: [file.parent / name for name in names[where]] for where in names}
    check_outs(outs, read, out)
    if within is not None:
        check_inputs(names, file.parent, within)
    return list(jobs.values())


def usual_name(number: int, scene: str) -> str:
    """Of the result of a list's edit that names none."""
    stem = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "-", Path(scene).stem)[:60]
    return f"{number:06d}_{stem}.png" if stem else f"{number:06d}.png"


def pictures(job: Record) -> list[str]:
    return [name for name in (job.scene, job.mask, *job.subjects) if name]


def check_outs(outs: Mapping[str, str], inputs: Mapping[str, Sequence[Path]], folder: Path) -> None:
    """Both by the line of the list. Raises FlexEditError for a name that some system cannot write,
    for two that are one file on some system, for what the list reads too, and for an input's name
    that no file can have.
    """
    taken: dict[str, str] = {}
    for where in inputs:
        if bad := [str(path) for path in inputs[where] if "\0" in str(path)]:
            raise FlexEditError(f"{where}: no file can be called {bad[0]!r}.")
    read = {name: (path, where) for where in inputs for path in inputs[where] for name in of(path)}
    for where, out in outs.items():
        if complaint := unwritable(out):
            raise FlexEditError(f"{where}: out is {out!r}; {complaint}")
        same = unicodedata.normalize("NFC", out).casefold()
        if same in taken:
            other = f"{taken[same]} writes {outs[taken[same]]} too"
            raise FlexEditError(f"{where}: out is {out!r}; {other}. Name another picture.")
        taken[same] = where
        for name in of(folder / out):
            if name in read:
                path, reader = read[name]
                raise FlexEditError(
                    f"{where}: out is {out!r}, which would overwrite {path}; {reader} reads that. "
                    "Name another picture, or another --out."
                )


def check_inputs(names: Mapping[str, Sequence[str]], folder: Path, within: Path) -> None:
    """names: by the line of the list, which lies in ``folder``. Raises FlexEditError for one that
    leads out of the folder ``within``, on this system or with a drive's letter on Windows.
    """
    root = Path(os.path.realpath(within))
    for where in names:
        for name in names[where]:
            is_inside = Path(os.path.realpath(folder / name)).is_relative_to(root)
            if PureWindowsPath(name).drive or not is_inside:
                raise FlexEditError(
                    f"{where}: {name!r} leads out of {within}. Copy the picture there, or leave "
                    "--inputs-within out if you trust the list."
                )


def of(path: Path) -> list[Any]:
    """What tells whether two paths are one file, through links and letters' case."""
    names: list[Any] = [os.path.realpath(path)]
    with suppress(OSError):
        stat = path.stat()
        names.append((stat.st_dev, stat.st_ino))
    return names


# The journal


class Journal:
    """What became of the edits whose results go into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.partial = folder, folder / PARTIAL
        self.ledger = Ledger(folder / RESULTS)

    def rows(self) -> dict[str, list[Row]]:
        """The journal's lines on each edit, by its ``out``."""
        rows: dict[str, list[Row]] = {}
        for row in self.lines():
            if "out" in row:
                rows.setdefault(row["out"], []).append(row)
        return rows

    def lines(self) -> list[Row]:
        return [row for row in self.ledger.rows() if is_line(row)]

    def add(self, row: Mapping[str, Any], files: Iterable[str] | None = None) -> None:
        """A line. If it is about an edit that is done, then its results get their names."""
        made = {name: whole_size(self.partial / name) for name in files or ()}
        line = {**row} if files is None else {**row, "made": made}
        self.ledger.add([line | {"at": round(time.time(), 3)}])
        for name in made:
            self._land(name)

    def is_done(self, asked: Mapping[str, Any], row: Row) -> bool:
        """Whether a line is of this edit, made of the same files, and its results are whole."""
        if "contents" not in row:  # written before they were looked at
            asked = {name: value for name, value in asked.items() if name != "contents"}
        if "error" in row or not asked.items() <= row.items():
            return False
        made = row.get("made", {row["out"]: 1})
        for name, size in made.items():  # killed between the line and the names
            if (self.partial / name).is_file() and (self.partial / name).stat().st_size == size:
                self._land(name)
        files = {self.folder / name: size for name, size in made.items()}
        return all(file.is_file() and file.stat().st_size >= files[file] for file in files)

    def summary(self) -> Row:
        """How far the edits are that the journal knows of, and how fast the latest went."""
        last = [rows[-1] for rows in self.rows().values()]
        over = [row for row in last if "error" in row or not row.keys() & {"sent", "lost"}]
        done = [row for row in over if "error" not in row]
        begun = [row for row in self.lines() if "run" in row]
        runs = [row["run"] for row in begun]
        parts = {
            tuple(run["part"]): run["edits"]
            for run in runs
            if run["part"][1] == runs[-1]["part"][1]
        }
        by_server = Counter(row["server"] for row in done if "server" in row)
        times = [row["at"] for row in done if "at" in row]
        return {
            "working": self.working(),
            "edits": max(sum(parts.values()), len(last)),
            "done": len(done),
            "failed": len(over) - len(done),
            "set_aside": [row["out"] for row in over if row.get("aside")],
            "under_way": [row["out"] for row in last if "sent" in row],
            "by_server": dict(by_server),
            "lost": sum("lost" in row for row in self.lines()),
            "per_minute": per_minute([row["at"] for row in begun if "at" in row], times),
        }

    def _land(self, name: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.partial / name, self.folder / name)

    @contextmanager
    def claimed(self, part: Part) -> Iterator[None]:
        """Raises FlexEditError while another process works at edits of this part."""
        from filelock import FileLock

        self.partial.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".claim.lock"):
            for other in self._held():
                if (part[0] - other[0]) % math.gcd(part[1], other[1]) == 0:
                    raise FlexEditError(
                        f"Another process works in {self.folder}, at part {other[0]}/{other[1]}. "
                        "Wait for it, or give both a --part of their own, 1/2 and 2/2."
                    )
            lock = FileLock(self.folder / f".part-{part[0]}-of-{part[1]}.lock")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
            for folder in [*self.partial.glob("*/"), self.partial]:
                with suppress(OSError):  # others' files are in it
                    folder.rmdir()

    def working(self) -> list[str] | None:
        """The parts that processes work at, like 1/2; None if one may not look."""
        from filelock import FileLock

        if not any(self.folder.glob(".part-*.lock")):
            return []
        try:
            with FileLock(self.folder / ".claim.lock"):  # a run that begins must not meet the look
                return [f"{first}/{step}" for first, step in self._held()]
        except OSError:
            return None

    def _held(self) -> list[Part]:
        """The parts whose locks are held. Locks go with their processes, however they end."""
        from filelock import FileLock, Timeout

        held = []
        for file in self.folder.glob(".part-*.lock"):
            if found := LOCK.fullmatch(file.name):
                try:
                    FileLock(file).acquire(timeout=0).lock.release()
                except Timeout:
                    held.append((int(found[1]), int(found[2])))
        return held


def is_line(row: Row) -> bool:
    """Whether it may be the journal's own: also, whether its results lie in its folder."""
    run, made = row.get("run", {"part": [1, 1], "edits": 0}), row.get("made", {})
    if not all(isinstance(row[name], kind) for name, kind in KINDS.items() if name in row):
        return False
    paths = [PurePath(name) for name in made]
    return (
        all(isinstance(size, int) for size in made.values())
        and not any(path.anchor or ".." in path.parts for path in paths)
        and isinstance(run.get("edits"), int)
        and isinstance(run.get("part"), list)
        and [type(number) for number in run["part"]] == [int, int]
    )


def per_minute(begun: Sequence[float], done: Sequence[float]) -> float | None:
    """How fast the latest run's edits go, of seconds at which runs began and edits were done."""
    if not done:
        return None
    # a run's first edit takes time too; journals of old may not say when it began
    start = max((at for at in begun if at <= max(done)), default=min(done))
    marks = sorted([start, *(at for at in done if at > start)])[-LATEST:]
    return round(60 * (len(marks) - 1) / (marks[-1] - marks[0]), 2) if len(marks) > 1 else None


def whole_size(file: Path) -> int:
    """A file's size, once all of it is on the disk."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
        return os.fstat(stream.fileno()).st_size


# Edits by one model


@dataclass(frozen=True)
class JobRun:
    """jobs: what is to be done · folder: what their paths are from · out: where pictures and
    results go · settings: all else that a picture depends on, as JSON.
    """

    jobs: Sequence[Record]
    folder: Path
    out: Path
    settings: Mapping[str, Any]
    part: Part = (1, 1)

    def run(
        self, edits: Callable[[Sequence[Record], Path], Iterable[tuple[Record, Row]]]
    ) -> dict[str, int]:
        """Hands what is not done yet to ``edits(jobs, folder for their pictures)``, and writes what
        it gives back for each into the journal: an edit with an ``error`` is to be tried again.

        Returns how many were done now, how many failed, and how many were done before.
        """
        from tqdm import tqdm

        journal = Journal(self.out)
        with journal.claimed(self.part):
            asked = {job.out: self.asked(job) for job in self.jobs}
            rows = journal.rows()
            left = [
                job
                for job in self.jobs
                if not journal.is_done(asked[job.out], rows.get(job.out, [{"error": ""}])[-1])
            ]
            if left:
                journal.add({"run": {"edits": len(self.jobs), "part": list(self.part)}})
            failed = 0
            over = edits(left, journal.partial)
            for job, result in tqdm(over, desc=self.out.name, unit="edit", total=len(left)):
                failed += "error" in result
                journal.add(asked[job.out] | result, None if "error" in result else [job.out])
        return {"done": len(left) - failed, "failed": failed, "before": len(self.jobs) - len(left)}

    def asked(self, job: Record) -> Row:
        """What a line of the journal says about an edit whatever became of it."""
        given = {name: getattr(job, name) for name in GIVEN}
        contents = {name: content(self.folder / name) for name in pictures(job)}
        return json.loads(json.dumps({**given, "contents": contents, "settings": self.settings}))


def content(path: Path) -> str:
    """16 hex digits that change with any byte of a file, "" if there is none."""
    return fingerprint([path]) if path.is_file() else ""


def one_by_one(
    edit: Callable[[Record, Path], Row],
) -> Callable[[Sequence[Record], Path], Iterator[tuple[Record, Row]]]:
    """``edit(job, path of its picture)`` for all of them. A FlexEditError ends no other edit."""

    def edits(jobs: Sequence[Record], folder: Path) -> Iterator[tuple[Record, Row]]:
        for job in jobs:
            yield job, timed(edit, job, folder / job.out)

    return edits


def timed(edit: Callable[[Record, Path], Row], job: Record, path: Path) -> Row:
    began = time.monotonic()
    try:
        result = edit(job, path)
    except (FlexEditError, OSError) as error:
        result = {"error": str(error)}
    return result | {"seconds": round(time.monotonic() - began, 3)}
