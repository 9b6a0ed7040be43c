"""What Ray does: it holds a server's client in an actor each, and the pipeline in several.

Ray starts the actors, on this machine or where ``RAY_ADDRESS`` says, starts one again that was lost
with its process or its machine, and repeats the call that was lost with it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..data.record import Record
from ..errors import FlexEditError
from ..jobs import Row, timed
from .client import Client, Outcome, Task

CANCEL = 5.0  # seconds that an actor has for it
STORE = 200 * 2**20  # bytes that Ray keeps in shared memory of this machine

Edit = Callable[[Record, Path], Row]


def start(num_cpus: int) -> Callable[[], None]:
    """num_cpus: how many actors may compute at once, if no cluster is named → what ends it"""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells its makers nothing
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not os.environ.get("RAY_ADDRESS"):
        quiet |= {"num_cpus": num_cpus, "object_store_memory": STORE, "include_dashboard": False}
    ray.init(**quiet)
    return ray.shutdown


class ActorWorker:
    """A `Client` in an actor of its own: see `run.Worker`."""

    def __init__(self, url: str, places: int) -> None:
        import ray

        self._actor = (
            ray.remote(Client)
            .options(num_cpus=0, max_concurrency=places + 1, max_restarts=-1, max_task_retries=-1)
            .remote(url)
        )

    async def edit(self, task: Task) -> Outcome:
        return await self._said(self._actor.edit.remote(task))

    async def describe(self, nodes: list[str]) -> dict[str, Any] | str:
        return await self._said(self._actor.describe.remote(nodes))

    async def _said(self, call: Any) -> Any:
        import ray

        try:
            return await call
        except asyncio.CancelledError:  # or Ray tells that the call failed, and would repeat it
            ray.cancel(call)
            with suppress(asyncio.TimeoutError, ray.exceptions.RayError):
                await asyncio.wait_for(call, CANCEL)
            raise

    async def close(self) -> None:
        import ray

        ray.kill(self._actor)


class PipelineActor:
    """Makes edits of a list; Ray Data has several of these."""

    def __init__(self, load: Callable[[], Edit], jobs: Sequence[Record], folder: Path) -> None:
        self.jobs, self.folder, self.wrong = jobs, folder, ""
        try:
            self.edit = load()
        except (FlexEditError, OSError) as error:  # Ray would bury it under a traceback
            self.wrong = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        job = self.jobs[row["number"]]
        result = {} if self.wrong else timed(self.edit, job, self.folder / job.out)
        return {"number": row["number"], "result": json.dumps(result), "wrong": self.wrong}


def pipeline_actors(
    load: Callable[[], Edit], num_actors: int, num_gpus: float
) -> Callable[[Sequence[Record], Path], Iterator[tuple[Record, Row]]]:
    """What `jobs.JobRun.run` calls: ``load()`` in every actor gives what makes an edit there.

    What it calls raises the FlexEditError of a ``load()`` that failed.
    """

    def edits(jobs: Sequence[Record], folder: Path) -> Iterator[tuple[Record, Row]]:
        if not jobs:
            return
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        numbers = ray.data.from_items(
            [{"number": number} for number in range(len(jobs))],
            override_num_blocks=len(jobs),  # so that each result comes as soon as it is there
        )
        results = numbers.map(
            PipelineActor,
            fn_constructor_args=(load, list(jobs), folder.resolve()),
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=1,
            num_gpus=num_gpus,
        )
        for row in results.iter_rows():
            if row["wrong"]:
                raise FlexEditError(row["wrong"])
            yield jobs[row["number"]], json.loads(row["result"])

    return edits
