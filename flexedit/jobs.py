"""Many edits by one model, from a list: which are done, which failed, which are still to do.

``results.jsonl`` gets a line when an edit is over, so that a batch which was stopped goes on where
it was, and several processes can share one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .config import build_lines
from .errors import FlexEditError

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Job:
    """One edit. Scene, mask and subject are paths, from the list's folder on; "" is none."""

    scene: str
    instruction: str = ""
    mask: str = ""
    subject: str = ""
    task: Literal["edit", "segment"] = "edit"
    seed: int = 0
    out: str = ""  # the picture's name; default: the edit's number and the scene's name


def read_jobs(file: Path) -> list[Job]:
    """Raises FlexEditError for a list that cannot be read, and for two pictures of one name."""
    jobs: list[Job] = []
    taken: dict[str, str] = {}
    for number, (where, job) in enumerate(build_lines(Job, file), 1):
        if not 0 <= job.seed < 2**63:
            raise FlexEditError(f"{where}: seed is {job.seed}; it must be in 0 … 2^63 - 1.")
        out = job.out or f"{number:06d}_{Path(job.scene).stem}.png"
        if Path(out).name != out or out == RESULTS:
            raise FlexEditError(f"{where}: out is {out!r}; give the name of a picture, no path.")
        if out in taken:
            raise FlexEditError(f"{where}: {taken[out]} writes {out} too. Name another picture.")
        taken[out] = where
        jobs.append(replace(job, out=out))
    return jobs


@dataclass(frozen=True)
class JobRun:
    """jobs: what is to be done · out: where pictures and results go · settings: all else that a
    picture depends on, as JSON.
    """

    jobs: Sequence[Job]
    out: Path
    settings: Mapping[str, Any]

    def run(self, edit: Callable[[Job, Path], dict[str, Any]]) -> dict[str, int]:
        """Calls ``edit(job, path of its picture)`` for what is not done yet; what that returns goes
        into the results, and so does a FlexEditError, which ends no other edit.

        Returns how many were done now, how many failed, and how many were done before.
        """
        from tqdm import tqdm

        self.out.mkdir(parents=True, exist_ok=True)
        done = self.done()
        left = [job for job in self.jobs if job.out not in done]
        failed = 0
        for job in tqdm(left, desc=self.out.name, unit="edit"):
            began = time.monotonic()
            try:
                result = edit(job, self.out / job.out)
            except (FlexEditError, OSError) as error:
                result, failed = {"error": str(error)}, failed + 1
            seconds = round(time.monotonic() - began, 3)
            self.write(self.record(job) | result | {"seconds": seconds})
        return {"done": len(left) - failed, "failed": failed, "before": len(self.jobs) - len(left)}

    def record(self, job: Job) -> dict[str, Any]:
        return json.loads(json.dumps({**asdict(job), "settings": self.settings}))

    def write(self, row: dict[str, Any]) -> None:
        with (self.out / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")  # one write: several processes may share the file

    def done(self) -> set[str]:
        """Pictures that are there, made of the same job with the same settings."""
        file = self.out / RESULTS
        if not file.is_file():
            return set()
        text = file.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):  # torn when a process was killed
            with file.open("a", encoding="utf-8") as torn:
                torn.write("\n")
        last: dict[str, dict[str, Any]] = {}
        for line in text.splitlines():
            try:
                row = json.loads(line)
                last[row["out"]] = row
            except (ValueError, KeyError, TypeError):
                continue
        return {
            job.out
            for job in self.jobs
            if (row := last.get(job.out))
            and "error" not in row
            and self.record(job).items() <= row.items()
            and (self.out / job.out).is_file()
        }
