"""A list of edits on servers: who does which, and what becomes of it.

A server takes its next edit when it has room for one, so that a fast one does more. One that fails
rests, longer each time, and is asked whether it is there before it is given anything again; its
edit goes to another. One server is talked to from here; of several, each has an actor of Ray's.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ..files import fingerprint
from ..jobs import Journal, Part, Row
from .client import FOLDER, Outcome, Output, Task, public, said
from .graph import Graph, GraphJob

REST, LONGEST_REST = 0.5, 60.0  # seconds
ATTEMPTS = 2  # servers that an edit may kill, or fail on
PATIENCE = 3  # edits that fail in a row by their own fault before a server rests
WATCH = 2.0  # seconds between looks at the file of servers

State = Literal["ready", "resting", "gone"]
Tell = Callable[..., None]  # event, what is to be told of it


class Worker(Protocol):
    """A `Client`, here or in an actor of Ray's"""

    def edit(self, task: Task) -> Awaitable[Outcome]: ...

    def describe(self, nodes: list[str]) -> Awaitable[dict[str, Any] | str]: ...

    def close(self) -> Awaitable[None]: ...


@dataclass
class Server:
    url: str  # without name and password, as it is told and written down
    worker: Worker
    state: State = "ready"
    leaving: bool = False  # no longer in the file of servers
    done: int = 0
    fails: int = 0  # in a row
    busy: int = 0


@dataclass
class Progress:
    """How far one edit is."""

    job: GraphJob
    asked: Row
    sent: tuple[str, str] | None = None  # id and server, of an edit that may be under way there
    kills: list[str] = field(default_factory=list)  # servers
    errors: dict[str, str] = field(default_factory=dict)  # by server

    def tried(self) -> set[str]:
        return {*self.kills, *self.errors}


class FarmRun:
    """jobs: what the list asks for · part: which of it · tell: is told of all that happens ·
    again: also tries what was set aside · seconds: how long a server may take for an edit · wait:
    how long to wait while no server answers
    """

    def __init__(
        self,
        graph: Graph,
        jobs: Sequence[GraphJob],
        out: Path,
        tell: Tell,
        *,
        part: Part = (1, 1),
        places: int = 2,
        seconds: float = 3600.0,
        wait: float = 600.0,
        again: bool = False,
    ) -> None:
        self.graph, self.jobs, self.tell, self.part = graph, jobs, tell, part
        self.places, self.seconds, self.wait, self.again = places, seconds, wait, again
        self.journal = Journal(out)
        self.servers: dict[str, Server] = {}
        self.todo: list[Progress] = []
        self.counts = {"done": 0, "failed": 0, "before": 0, "left": 0}
        self._changed = asyncio.Event()
        self._pulls: set[asyncio.Task[None]] = set()

    async def run(
        self,
        connect: Callable[[str], Worker],
        urls: Callable[[], Sequence[str] | None],
    ) -> dict[str, int]:
        """connect: → who talks to a server · urls: the servers, None if they are what they were

        Returns how many were done now, failed, were done before, and are left because no server
        answered any more.
        """
        with self.journal.claimed(self.part):
            self._begin()
            self.journal.add({"run": {"edits": len(self.jobs), "part": list(self.part)}})
            try:
                await self._work(connect, urls)
            finally:
                for pull in self._pulls:
                    pull.cancel()
                await asyncio.gather(*self._pulls, return_exceptions=True)
                for server in self.servers.values():
                    await server.worker.close()
        return self.counts

    def _begin(self) -> None:
        rows = self.journal.rows()
        graph = fingerprint((), json.dumps(self.graph.nodes, sort_keys=True))
        aside = []
        for job in self.jobs:
            progress = Progress(job, job.asked(graph))
            every = rows.get(job.out, [])
            mine = [row for row in every if progress.asked.items() <= row.items()]
            last = mine[-1] if mine else {}
            latest = [row for row in every if "made" in row][-1:]  # its results lie there
            if last in latest and self.journal.is_done(progress.asked, last):
                self.counts["before"] += 1
            elif last.get("aside") and not self.again:
                aside.append((job.out, last["error"]))
            else:
                for row in mine:
                    remember(progress, row)
                self.todo.append(progress)
        self.counts["left"] = len(self.todo)
        self.tell("begin", edits=len(self.jobs), so_far=dict(self.counts))
        for out, why in aside:
            self._count("failed", out=out, why=why, aside=True)

    async def _work(
        self, connect: Callable[[str], Worker], urls: Callable[[], Sequence[str] | None]
    ) -> None:
        alone_since: float | None = None
        listed: Sequence[str] = ()
        while self.counts["left"]:
            if (named := urls()) is not None:
                listed = named
            self._list(listed, connect)
            for pull in [pull for pull in self._pulls if pull.done()]:
                self._pulls.discard(pull)
                pull.result()  # a fault of ours is not hidden
            if self._up():
                alone_since = None
            else:
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > self.wait:
                    self.tell("given up", why=f"no server answered for {self.wait:g} seconds")
                    return
            await self._change()

    def _up(self) -> list[Server]:
        return [server for server in self.servers.values() if server.state == "ready"]

    def _list(self, urls: Sequence[str], connect: Callable[[str], Worker]) -> None:
        listed = {public(url): url for url in urls}
        for name, server in self.servers.items():
            server.leaving |= name not in listed  # if it comes back, then as a new one
        for name, url in listed.items():
            known = self.servers.get(name)
            if known is None or known.state == "gone":
                server = self.servers[name] = Server(name, connect(url))
                self.tell("server", server=name, state="ready")
                for _ in range(self.places):
                    self._pulls.add(asyncio.create_task(self._pull(server)))

    async def _pull(self, server: Server) -> None:
        """One edit after the other, as long as there are some and the server is listed."""
        while self.counts["left"] and not server.leaving:
            progress = self._next(server) if server.state == "ready" else None
            if progress is None:
                await self._change()
                continue
            server.busy += 1
            try:
                await self._try(server, progress)
            finally:
                server.busy -= 1
        if server.leaving and not server.busy and server.state != "gone":
            server.state = "gone"
            self.tell("server", server=server.url, state="gone")
            await server.worker.close()

    def _next(self, server: Server) -> Progress | None:
        """Of what is to do, what no other server should: one that has it, one that it spared."""
        others = {other.url for other in self._up()} - {server.url}
        for progress in self.todo:
            if progress.sent and progress.sent[1] in others:
                continue
            if server.url in progress.tried() and others - progress.tried():
                continue
            self.todo.remove(progress)
            return progress
        return None

    async def _try(self, server: Server, progress: Progress) -> None:
        job = progress.job
        try:
            task = self._task(job, progress.sent[0] if progress.sent else str(uuid.uuid4()))
        except OSError as error:
            self._fail(progress, f"{error.filename} cannot be read ({error.strerror}).")
            return
        if progress.sent != (task.id, server.url):
            self.journal.add(progress.asked | {"sent": task.id, "server": server.url})
            self.tell("sent", out=job.out, server=server.url)
        try:
            outcome = await server.worker.edit(task)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # Ray's: the actor is lost for good
            if type(error).__module__.split(".")[0] != "ray":
                raise
            outcome = Outcome("lost", said(error))
        progress.sent = None
        if outcome.kind == "done":
            server.done, server.fails = server.done + 1, 0
            self._finish(progress, server, outcome)
            return
        server.fails += 1
        if outcome.kind == "failed":
            progress.errors[server.url] = outcome.why
            if len(progress.errors) < ATTEMPTS and self._others(progress):
                self._again(progress)
            else:
                self._fail(progress, outcome.why)
            if server.fails <= PATIENCE:
                return
        else:
            self._lose(progress, server, outcome)
        await self._rest(server, outcome)

    def _others(self, progress: Progress) -> set[str]:
        return {server.url for server in self._up()} - progress.tried()

    def _task(self, job: GraphJob, name: str) -> Task:
        values, uploads = dict(job.values), {}
        for slot, path in job.files.items():
            content = path.read_bytes()
            stored = fingerprint([path]) + path.suffix.lower()
            uploads[stored] = content
            values[slot] = f"{FOLDER}/{stored}"
        return Task(name, self.graph.filled(values), uploads, self.seconds)

    def _finish(self, progress: Progress, server: Server, outcome: Outcome) -> None:
        names = result_names(progress.job.out, outcome.outputs)
        for name, output in zip(names, outcome.outputs, strict=True):
            path = self.journal.partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(output.content)
        row = {"server": server.url, "texts": dict(outcome.texts), "seconds": outcome.seconds}
        self.journal.add(progress.asked | row, names)
        self.counts["left"] -= 1
        self._count("done", out=progress.job.out, files=names, **row)

    def _lose(self, progress: Progress, server: Server, outcome: Outcome) -> None:
        row = {"lost": outcome.why, "server": server.url, "began": outcome.began}
        self.journal.add(progress.asked | row)
        self.tell("lost", out=progress.job.out, server=server.url, why=outcome.why)
        remember(progress, row)
        if len(progress.kills) >= ATTEMPTS:
            names = " and ".join(dict.fromkeys(progress.kills))
            self._fail(
                progress,
                f"set aside: it was lost twice while {names} worked at it ({outcome.why})",
                aside=True,
            )
        else:
            self._again(progress)

    def _again(self, progress: Progress) -> None:
        self.todo.append(progress)
        self._changes()

    def _fail(self, progress: Progress, why: str, aside: bool = False) -> None:
        self.journal.add(progress.asked | {"error": why} | ({"aside": True} if aside else {}))
        self.counts["left"] -= 1
        self._count("failed", out=progress.job.out, why=why, aside=aside)

    async def _change(self) -> None:
        """Returns when something is to do, is over or is up again, or after a while."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), WATCH)

    def _changes(self) -> None:
        self._changed.set()  # wakes all who wait now
        self._changed.clear()

    def _count(self, event: str, **what: Any) -> None:
        self.counts[event] += 1
        self.tell(event, **what, so_far=dict(self.counts))
        self._changes()

    async def _rest(self, server: Server, outcome: Outcome) -> None:
        """Until the server answers again, and twice as long each time that it fails."""
        if server.state != "ready":  # another place sees to it
            return
        server.state = "resting"
        self.tell("server", server=server.url, state="resting", why=outcome.why)
        tries = server.fails
        while not server.leaving:
            await asyncio.sleep(min(LONGEST_REST, REST * 2 ** min(tries, 10)))
            tries += 1
            if isinstance(await described(server.worker, []), dict):
                server.state = "ready"
                self.tell("server", server=server.url, state="ready")
                self._changes()
                return


def remember(progress: Progress, row: Mapping[str, Any]) -> None:
    """What a line of the journal says about an edit that is not over."""
    if "sent" in row:
        progress.sent = (row["sent"], row["server"])
    elif "lost" in row:
        progress.sent = None
        if row.get("began"):
            progress.kills.append(row["server"])
    else:  # it was over, and is tried anew
        progress.sent, progress.kills = None, []


def result_names(out: str, outputs: Iterable[Output]) -> list[str]:
    """The first result is called as the list says; the others lie in a folder of that name."""
    stem, names = Path(out).stem, []
    for number, output in enumerate(outputs):
        title = re.sub(r"[^\w-]+", "-", output.title).strip("-")[:40]
        names.append(
            f"{stem}/{title}_{number}{output.suffix}" if number else f"{stem}{output.suffix}"
        )
    return names


async def described(worker: Worker, nodes: list[str]) -> dict[str, Any] | str:
    try:
        return await worker.describe(nodes)
    except Exception as error:  # Ray's, as above
        if type(error).__module__.split(".")[0] != "ray":
            raise
        return said(error)


async def ask(
    workers: Mapping[str, Worker], graph: Graph
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What each server says about itself and the graph's nodes; why others say nothing."""
    names = sorted({node["class_type"] for node in graph.nodes.values()})
    answers = await asyncio.gather(*(described(it, names) for it in workers.values()))
    for worker in workers.values():
        await worker.close()
    by_url = dict(zip(workers, answers, strict=True))
    return (
        {url: answer for url, answer in by_url.items() if isinstance(answer, dict)},
        {url: answer for url, answer in by_url.items() if isinstance(answer, str)},
    )
