"""Many edits by one model, from a list: which are done, which failed, which are still to do.

``results.jsonl`` gets a line when an edit is over, so that a batch which was stopped goes on where
it was, and several processes can share one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .data.record import Record
from .errors import FlexEditError
from .files import Ledger, line_of, read_records

RESULTS = "results.jsonl"
GIVEN = ("scene", "instruction", "mask", "subject", "task", "seed", "out")  # what makes an edit


def read_jobs(file: Path) -> list[Record]:
    """Raises FlexEditError for a list that cannot be read, and for two pictures of one name."""
    jobs: list[Record] = []
    taken: dict[str, str] = {}
    for number, (line, job) in enumerate(read_records(Record, file).items(), 1):
        where = line_of(file, line)
        out = job.out or f"{number:06d}_{Path(job.scene).stem}.png"
        if job.complaint:
            raise FlexEditError(f"{where}: {job.complaint}")
        if job.task == "ask":
            raise FlexEditError(f"{where}: task is 'ask'; choose one of edit, segment.")
        if not 0 <= job.seed < 2**63:
            raise FlexEditError(f"{where}: seed is {job.seed}; it must be in 0 … 2^63 - 1.")
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

    jobs: Sequence[Record]
    out: Path
    settings: Mapping[str, Any]

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.out / RESULTS)

    def run(self, edit: Callable[[Record, Path], dict[str, Any]]) -> dict[str, int]:
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
            self.ledger.add([self.asked(job) | result | {"seconds": seconds}])
        return {"done": len(left) - failed, "failed": failed, "before": len(self.jobs) - len(left)}

    def asked(self, job: Record) -> dict[str, Any]:
        """What a line of the results says about an edit whatever became of it."""
        given = {name: getattr(job, name) for name in GIVEN}
        return json.loads(json.dumps({**given, "settings": self.settings}))

    def done(self) -> set[str]:
        """Pictures that are there, made of the same job with the same settings."""
        last = {out: row for row in self.ledger.rows() if isinstance(out := row.get("out"), str)}
        return {
            job.out
            for job in self.jobs
            if (row := last.get(job.out))
            and "error" not in row
            and self.asked(job).items() <= row.items()
            and (self.out / job.out).is_file()
        }
