"""``batch`` and ``status``: many edits from a list, here, on ComfyUI servers or on a cluster."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..benchmark.extra import require
from ..errors import FlexEditError
from .arguments import AS_JSON, PATH, POSITIVE, Report, json_option, model_options, part, together
from .edit import make_edit, make_pipeline, setting_options
from .messages import NO_MEMORY, lacks_memory, warn

if TYPE_CHECKING:
    from ..data.record import Record
    from ..farm.graph import Graph, GraphJob
    from ..jobs import Row

SOME_FAILED = 3  # exit code of a batch on servers
STOPPED = 130  # exit code after Ctrl+C, as shells have it
SECONDS = click.FloatRange(min=0.0, min_open=True)

server_options = together(
    click.option("--graph", type=PATH, help="a ComfyUI graph in API format, for --server"),
    click.option("--server", multiple=True, metavar="URL", help="a ComfyUI; may be given often"),
    click.option(
        "--servers", type=PATH, help="a file of servers, a URL a line; read again as it changes"
    ),
    click.option("--in-flight", type=POSITIVE, default=2, help="edits that a server has at once"),
    click.option("--seconds", type=SECONDS, default=3600.0, help="a server may take for an edit"),
    click.option("--wait", type=SECONDS, default=600.0, help="seconds, while no server answers"),
    click.option("--again", is_flag=True, help="also what was set aside"),
    click.option("--dry-run", is_flag=True, help="only check list, graph, files and servers"),
)
OF_SERVERS = ("graph", "in_flight", "seconds", "wait", "again", "dry_run")


@click.command()
@click.option("--list", "file", type=PATH, required=True, help="JSONL, an edit a line")
@setting_options
@model_options
@click.option(
    "--part",
    type=part,
    default="1/1",
    metavar="I/N",
    help="only every N-th edit, from the I-th",
)
@click.option("--out", type=PATH, required=True, help="folder of pictures and results")
@click.option(
    "--inputs-within",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="for a list from others: refuse it if it names pictures outside of this folder",
)
@server_options
@click.option(
    "--engine",
    type=click.Choice(("plain", "ray")),
    default="plain",
    help="ray: several processes, on this machine or a cluster",
)
@click.option("--workers", type=POSITIVE, default=2, help="processes of --engine ray")
@click.pass_context
def batch(
    context: click.Context,
    file: Path,
    part: tuple[int, int],
    out: Path,
    inputs_within: Path | None,
    engine: str,
    workers: int,
    **options: Any,
) -> Report:
    """Edit many pictures, resumably."""
    servers = {name: options.pop(name) for name in ("server", "servers", *OF_SERVERS)}
    try:
        if servers["server"] or servers["servers"]:
            what = "a batch on servers, whose graph says that"
            _refuse(context, what, *options, "engine", "workers")
            return _on_servers(context, file, part, out, inputs_within, **servers)
        _refuse(context, "a batch without --server", *OF_SERVERS)
        if engine == "plain":
            _refuse(context, "a batch without --engine ray", "workers")
        workers = workers if engine == "ray" else 0
        return _here(context, file, part, out, inputs_within, workers, options)
    except KeyboardInterrupt:
        warn("Stopped. Run the same again to go on.")
        context.exit(STOPPED)


def _refuse(context: click.Context, what: str, *names: str) -> None:
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} has no place in {what}.", context)


# With the library's own pipeline


def _here(
    context: click.Context,
    file: Path,
    part: tuple[int, int],
    out: Path,
    within: Path | None,
    workers: int,
    options: dict[str, Any],
) -> Report:
    """workers: processes of Ray's, 0 for none beside this one"""
    from ..farm import cluster
    from ..jobs import RESULTS, JobRun, one_by_one, read_jobs

    jobs = read_jobs(file, out, within)[part[0] - 1 :: part[1]]
    if workers:
        require("--engine ray (the extra farm)", "ray", "pyarrow", "pandas")
        context.call_on_close(cluster.start(workers))
    settings, model = dict(options), options["model"]
    pipeline = make_pipeline(settings)
    settings["reply"] = settings["reply"] or pipeline.config.sampling.reply
    device = pipeline.device.type
    same = {name: value for name, value in options.items() if name not in settings}
    same |= {"model": model and model.resolve(), "device": device}
    load = partial(_editor, same, settings, file.parent.resolve())
    if workers:
        edits = cluster.pipeline_actors(load, workers, num_gpus=float(device == "cuda"))
    else:
        edits = one_by_one(load())  # what is wrong with it is wrong with every edit
    from ..benchmark.editors import described

    run = JobRun(jobs, file.parent, out, settings | described(pipeline), part)
    counts = run.run(edits)
    if counts["failed"]:
        raise FlexEditError(
            f"{counts['failed']} of {len(jobs)} edits failed; {out / RESULTS} says why. "
            "Run the same again to try them once more."
        )
    return {"out": str(out), **counts}


def _editor(
    model: dict[str, Any], settings: dict[str, Any], folder: Path
) -> Callable[[Record, Path], Row]:
    """What makes an edit, with a model (`model_options`) that it loads at once"""
    pipeline = make_pipeline(dict(model))
    pipeline.load()

    def edit(job: Record, out: Path) -> Row:
        notes: list[str] = []
        try:
            report = make_edit(pipeline, job, folder, out, settings, notes.append)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            raise FlexEditError(NO_MEMORY) from error
        return {"reply": report["reply"], "label": report["label"], "notes": notes}

    return edit


# With graphs on servers


def _on_servers(
    context: click.Context,
    file: Path,
    part: tuple[int, int],
    out: Path,
    within: Path | None,
    *,
    graph: Path | None,
    server: Sequence[str],
    servers: Path | None,
    in_flight: int,
    dry_run: bool,
    **how: Any,
) -> Report:
    if graph is None:
        raise click.UsageError("A batch on servers needs a --graph.", context)
    from ..farm import cluster
    from ..farm.client import Client
    from ..farm.graph import Graph
    from ..farm.run import FarmRun, Worker
    from ..jobs import RESULTS

    template = Graph.read(graph)
    listed = ServerList(server, servers)
    urls = listed()
    assert urls is not None
    require("A batch on a server", "aiohttp")
    several = len(urls) > 1 or servers is not None
    connect: Callable[[str], Worker] = Client
    if several:
        require("A batch on several servers (the extra farm)", "ray", "aiohttp")
        context.call_on_close(cluster.start(1))
        connect = partial(cluster.ActorWorker, places=in_flight)
    jobs, answers, problems = _checked(template, file, part, out, within, urls)
    if dry_run:
        if problems:
            raise FlexEditError("; ".join(problems))
        return {"edits": len(jobs), "servers": answers, "problems": problems}
    for problem in problems:  # which other edits and servers do not have
        warn(problem)
    teller = Teller(out.name, bool(context.meta.get(AS_JSON)))
    run = FarmRun(template, jobs, out, teller, part=part, places=in_flight, **how)
    try:
        counts = asyncio.run(run.run(connect, ServerList(server, servers)))
    finally:
        teller.close()
    report: Report = {"out": str(out), **counts}
    if counts["failed"] or counts["left"]:
        teller("end", **report)
        warn(
            f"{counts['failed']} of {len(jobs)} edits failed and {counts['left']} are left; "
            f"{out / RESULTS} says why. Run the same again to try them once more."
        )
        context.exit(SOME_FAILED)
    return {"event": "end", **report} if teller.as_json else report


def _checked(
    graph: Graph,
    file: Path,
    part: tuple[int, int],
    out: Path,
    within: Path | None,
    urls: Sequence[str],
) -> tuple[list[GraphJob], dict[str, str], list[str]]:
    """The list's edits, the servers' versions, and what is wrong with some of both.

    Raises FlexEditError for what is wrong with the whole run.
    """
    from ..farm import graph as graphs
    from ..farm.client import Client, public
    from ..farm.run import ask

    about, silent = asyncio.run(ask({public(url): Client(url) for url in urls}, graph))
    if not about:
        said = "; ".join(f"{url}: {why}" for url, why in silent.items())
        raise FlexEditError(f"No server answers. {said}")
    first = next(iter(about))
    info = about[first]["nodes"]
    jobs = graphs.read_graph_jobs(file, out, graph, graphs.uploads(graph, info), within)
    jobs = jobs[part[0] - 1 :: part[1]]
    filled = sorted({slot for job in jobs for slot in job.values})
    problems = []
    for url, answer in about.items():
        problems += [f"{url}: {it}" for it in graphs.complaints(graph, answer["nodes"], filled)]
        if differ := graphs.differing(graph, info, answer["nodes"]):
            problems.append(f"{first} and {url} have other versions of {', '.join(differ)}")
    unheard = [f"{url} does not answer ({why})" for url, why in silent.items()]
    if problems:
        raise FlexEditError("; ".join(problems + unheard))
    problems = unheard
    for url, answer in about.items():
        if refused := graphs.refusals(graph, answer["nodes"], jobs):
            problems.append(
                f"{url} would not take {len(refused)} values, the first is {refused[0]}"
            )
    missing = sorted({str(path) for job in jobs for path in job.files.values()})
    missing = [path for path in missing if not os.path.isfile(path)]
    if missing:
        problems.append(f"{len(missing)} files are missing, the first is {missing[0]}")
    return jobs, {url: about[url]["version"] for url in about}, problems


class ServerList:
    """The servers that were named, None while they are what they were."""

    def __init__(self, named: Sequence[str], file: Path | None) -> None:
        self.named, self.file, self.last = named, file, ""

    def __call__(self) -> list[str] | None:
        text = "\n".join(self.named)
        if self.file:
            try:
                text += "\n" + self.file.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                if self.last:  # it is being written
                    return None
                raise FlexEditError(f"{self.file} cannot be read ({error}).") from error
        if text == self.last:
            return None
        lines = [line.partition("#")[0].strip().rstrip("/") for line in text.splitlines()]
        urls = list(dict.fromkeys(filter(None, lines)))
        wrong = [url for url in urls if not _is_server(url)]
        if wrong or not urls:
            said = f"{wrong[0]!r} is no server" if wrong else "No server is named"
            if not self.last:
                raise FlexEditError(f"{said}; servers are written like http://127.0.0.1:8188.")
            warn(f"{said} in {self.file}; the run goes on with those from before")
            return None
        self.last = text
        return urls


def _is_server(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class Teller:
    """Says what happens: a line of JSON each on standard output, or a bar on standard error."""

    def __init__(self, name: str, as_json: bool) -> None:
        self.name, self.as_json = name, as_json
        self.bar: Any = None
        self.servers: dict[str, str] = {}
        self.began = time.monotonic()

    def __call__(self, event: str, **what: Any) -> None:
        if so_far := what.get("so_far"):
            what["so_far"] = so_far | self._speed(so_far)
        if self.as_json:
            print(json.dumps({"event": event, **what}), flush=True)
            return
        if event == "begin":
            from tqdm import tqdm

            total, initial = what["edits"], what["so_far"]["before"]
            self.bar = tqdm(desc=self.name, unit="edit", total=total, initial=initial)
        if self.bar is None:
            return
        if event == "server":
            self.servers[what["server"]] = what["state"]
        if event in ("done", "failed"):
            self.bar.update()
        if why := what.get("why"):
            self.bar.write(f"{what.get('out') or what.get('server') or event}: {why}")
        states = " ".join(f"{url.partition('//')[2]} {it}" for url, it in self.servers.items())
        failed = f"{so_far['failed']} failed, " if so_far and so_far["failed"] else ""
        self.bar.set_postfix_str(f"{failed}{states}")

    def _speed(self, so_far: Mapping[str, int]) -> dict[str, float | None]:
        seconds, done = time.monotonic() - self.began, so_far["done"]
        if not done:
            return {"per_minute": 0.0, "seconds_left": None}
        return {
            "per_minute": round(60 * done / seconds, 2),
            "seconds_left": round(so_far["left"] * seconds / done, 1),
        }

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


@click.command()
@click.argument("out", type=PATH)
@json_option
def status(out: Path) -> Report:
    """Say how far a batch is, from the folder of its results."""
    from ..jobs import Journal

    journal = Journal(out)
    if not journal.ledger.file.is_file():
        raise FlexEditError(f"{journal.ledger.file} is missing: no batch wrote results there.")
    return journal.summary()
