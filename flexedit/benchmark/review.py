"""A local page to accept, redraw or reject cases, as the paper's three volunteers did (§3.4).

The server listens on 127.0.0.1 alone and answers nobody but its own page: a request that names
another host, or that another website's page sends, is refused.
"""

from __future__ import annotations

import base64
import io
import sys
import threading
import webbrowser
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Annotated, Any, Literal
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import numpy as np
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass

from ..errors import FlexEditError
from ..validation import STRICT, validated
from .cases import FILES, Benchmark, Case
from .extra import require
from .page import rendered

if TYPE_CHECKING:
    from flask import Flask

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")  # what a browser here may call it
MAX_BODY = 8 * 2**20  # bytes; a mask of 4096² pixels is far below
MAX_NOTE = 2000  # characters
PNG = "data:image/png;base64,"
INLINE = "'unsafe-inline'"  # the page is one file
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'self'; img-src 'self' data:; style-src {INLINE}; script-src {INLINE}; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def review(folder: str | Path, port: int = 0, open_browser: bool = True) -> dict[str, int]:
    """Serves the page until Ctrl-C; → how many cases have which review then.

    port 0 takes any free one; the address is printed on standard error.
    """
    with ReviewServer(folder, port) as server:
        try:
            print(f"Review at {server.url} — Ctrl-C stops it.", file=sys.stderr, flush=True)
            if open_browser:
                webbrowser.open(server.url)
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nStopped; every decision is kept in the index.", file=sys.stderr)
    return dict(Counter(case.review for case in Benchmark(folder).cases))


# Decisions


@dataclass(frozen=True, config=STRICT)
class Decision:
    """What the page says about a case; None leaves it as it is. A mask makes it "redrawn"."""

    review: Literal["open", "accepted", "rejected"] | None = None
    note: Annotated[str, Field(max_length=MAX_NOTE)] | None = None
    mask: str | None = None  # a PNG of the scene's size as data URI


DECIDED = tuple(field.name for field in fields(Decision))


def decide(benchmark: Benchmark, case: Case, decision: Decision) -> Case:
    """Applies a decision to one case and rewrites the index.

    A mask becomes a new file beside the old one. Raises FlexEditError, and changes nothing, for
    a mask that is not one.
    """
    changed = case
    if decision.note is not None:
        changed = replace(changed, note=decision.note.strip())
    if decision.review:
        changed = replace(changed, review=decision.review)
    if decision.mask is not None:
        height, width = benchmark.picture(case, "scene").shape[:2]
        mask = read_mask(decision.mask, height, width)
        changed = replace(changed, mask=write_mask(benchmark.folder, case, mask), review="redrawn")
    benchmark.rewrite(changed if other.id == case.id else other for other in benchmark.cases)
    return changed


def read_mask(uri: str, height: int, width: int) -> np.ndarray:
    """A PNG as data URI, white = edit → (height, width) bool; never empty"""
    try:
        file = io.BytesIO(base64.b64decode(uri.removeprefix(PNG), validate=True))
        with Image.open(file, formats=["PNG"]) as opened:
            if opened.size != (width, height):
                raise FlexEditError(
                    f"The mask has {opened.width}×{opened.height} pixels; this scene needs "
                    f"{width}×{height}."
                )
            mask = np.asarray(opened.convert("L")) > 127
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FlexEditError(f"The mask cannot be read as a PNG ({error}).") from error
    if not mask.any():
        raise FlexEditError("The redrawn mask is empty. Paint what you mean, then save again.")
    return mask


def write_mask(folder: Path, case: Case, mask: np.ndarray) -> str:
    """Writes mask (H, W) beside the case's present one; → its name relative to the folder."""
    old = inside(folder, case.mask)
    stem = old.stem.partition(".redrawn")[0]
    numbers = range(1, 10_000)
    files = (old.with_name(f"{stem}.redrawn{number}.png") for number in numbers)
    file = next((file for file in files if not file.exists()), None)
    if file is None:
        raise FlexEditError(f"{old.parent} is full of redrawn masks of {case.id!r}. Remove some.")
    Image.fromarray(mask.astype(np.uint8) * 255).save(file)
    return Path(case.mask).with_name(file.name).as_posix()


def inside(folder: Path, name: str) -> Path:
    """The file of that name, which must not lead out of the folder."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise FlexEditError(f"{name} lies outside the benchmark.")
    return file


# The server


class ReviewServer(ThreadingMixIn, WSGIServer):
    """`url` is where it listens; `serve_forever` and `shutdown` as in the standard library."""

    daemon_threads = True

    def __init__(self, folder: str | Path, port: int = 0) -> None:
        require("Reviewing", "flask")
        Benchmark(folder)  # a wrong folder is told at once, not in the browser
        app = app_of(Path(folder))
        try:
            super().__init__((HOST, port), QuietHandler)
        except (OSError, OverflowError) as error:
            raise FlexEditError(
                f"Port {port} cannot be used ({error}). Choose another, or 0 for any free one."
            ) from error
        self.set_app(app)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"


class QuietHandler(WSGIRequestHandler):
    timeout = 60  # seconds a silent connection is kept

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the page itself shows what went wrong."""


def app_of(folder: Path) -> Flask:
    """/case/<id> shows a case and takes decisions; /picture/<id>/<name> is one of its pictures."""
    from flask import Flask, Response, abort, redirect, request, send_file

    app = Flask(__name__, static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY, MAX_FORM_MEMORY_SIZE=MAX_BODY)
    lock = threading.Lock()  # one decision after the other

    def look_up(case_id: str) -> tuple[Benchmark, int]:
        """The benchmark as it is now, and where the case is in it."""
        benchmark = Benchmark(folder)
        ids = [case.id for case in benchmark.cases]
        return benchmark, ids.index(case_id) if case_id in ids else abort(404)

    @app.get("/")
    def start() -> Response:
        cases = Benchmark(folder).cases
        return redirect(address(next((case for case in cases if case.review == "open"), cases[0])))

    @app.get("/case/<case_id>")
    def show(case_id: str, error: str = "") -> str:
        benchmark, index = look_up(case_id)
        before, after = neighbours(benchmark.cases, index)
        return rendered(
            "review.html",
            case=benchmark.cases[index],
            error=error,
            before=address(before),
            after=address(after),
            num_decided=sum(case.review != "open" for case in benchmark.cases),
            num_cases=len(benchmark.cases),
            max_note=MAX_NOTE,
        )

    @app.post("/case/<case_id>")
    def decide_case(case_id: str) -> Response | tuple[str, int]:
        try:
            form = request.form  # whose lines a browser ends with \r\n
            said = {key: form[key].replace("\r\n", "\n") for key in DECIDED if key in form}
            decision = validated(Decision, said, "The decision")
            with lock:
                benchmark, index = look_up(case_id)
                case = decide(benchmark, benchmark.cases[index], decision)
        except FlexEditError as error:
            return show(case_id, str(error)), 400
        is_done = decision.review in ("accepted", "rejected")
        return redirect(address(neighbours(benchmark.cases, index)[1] if is_done else case), 303)

    @app.get("/picture/<case_id>/<name>")
    def picture(case_id: str, name: str) -> Response:
        benchmark, index = look_up(case_id)
        file = getattr(benchmark.cases[index], name) if name in FILES else None
        path = inside(folder, file) if file else None
        return send_file(path, "image/png") if path and path.is_file() else abort(404)

    @app.before_request
    def refuse_strangers() -> None:
        """A website cannot hide where it posts from, nor send our host's name."""
        if request.host.partition(":")[0] not in HOSTS:
            abort(403)
        if request.headers.get("Origin", request.host_url[:-1]) != request.host_url[:-1]:
            abort(403)

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(FlexEditError)
    def refuse(error: FlexEditError) -> Response:
        return Response(str(error), 400, mimetype="text/plain")

    return app


def address(case: Case) -> str:
    return f"/case/{case.id}"


def neighbours(cases: Sequence[Case], index: int) -> tuple[Case, Case]:
    """The case before and the one after; the first and the last are their own."""
    return cases[max(index - 1, 0)], cases[min(index + 1, len(cases) - 1)]
