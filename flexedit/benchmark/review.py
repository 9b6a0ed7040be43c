"""A local page to accept, redraw or reject cases, as the paper's three volunteers did (§3.4).

The server listens on 127.0.0.1 alone and answers nobody but its own page: a request that names
another host, or that another website's page sends, is refused.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import threading
import webbrowser
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from ..errors import FlexEditError
from .cases import FILES, REVIEWS, Benchmark, Case

HOST = "127.0.0.1"
MAX_BODY = 8 * 2**20  # bytes; a mask of 4096² pixels is far below
MAX_NOTE = 2000  # characters
DECISIONS = tuple(review for review in REVIEWS if review != "redrawn")  # that comes with a mask
PNG = "data:image/png;base64,"
PAGES = Path(__file__).parent / "pages"
ASSETS = {
    "/": ("review.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/review.css": ("review.css", "text/css; charset=utf-8"),
    "/review.js": ("review.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
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


def decide(benchmark: Benchmark, case_id: str, decision: Any) -> Case:
    """Applies a decision of the page to one case and rewrites the index.

    decision: a dict with any of `review` (open, accepted, rejected), `note`, and `mask`, a PNG
    of the scene's size as data URI. A mask becomes a new file beside the old one, and the case
    "redrawn". Raises FlexEditError, and changes nothing, where any of them is not valid.
    """
    case = find(benchmark, case_id)
    if not isinstance(decision, dict) or not decision or set(decision) - {"review", "note", "mask"}:
        raise FlexEditError("A decision has `review`, `note` or `mask`, and nothing else.")
    changed = case
    if "note" in decision:
        changed = replace(changed, note=checked_note(decision["note"]))
    if "review" in decision:
        if decision["review"] not in DECISIONS:
            raise FlexEditError(
                f"The review is {decision['review']!r}; choose one of {', '.join(DECISIONS)}."
            )
        changed = replace(changed, review=decision["review"])
    if "mask" in decision:
        height, width = benchmark.picture(case, "scene").shape[:2]
        mask = read_mask(decision["mask"], height, width)
        changed = replace(changed, mask=write_mask(benchmark.folder, case, mask), review="redrawn")
    benchmark.rewrite(changed if other.id == case.id else other for other in benchmark.cases)
    return changed


def find(benchmark: Benchmark, case_id: str) -> Case:
    for case in benchmark.cases:
        if case.id == case_id:
            return case
    raise Refusal(HTTPStatus.NOT_FOUND, f"There is no case {case_id!r}.")


def checked_note(note: Any) -> str:
    if not isinstance(note, str) or len(note) > MAX_NOTE:
        raise FlexEditError(f"A note is text of at most {MAX_NOTE} characters.")
    return note.strip().encode("utf-8", "replace").decode()  # half a surrogate pair has no UTF-8


def read_mask(uri: Any, height: int, width: int) -> np.ndarray:
    """A PNG as data URI, white = edit → (height, width) bool; never empty"""
    if not isinstance(uri, str) or not uri.startswith(PNG):
        raise FlexEditError(f"The mask must be a PNG as data URI, {PNG}…")
    try:
        with Image.open(io.BytesIO(base64.b64decode(uri[len(PNG) :], validate=True))) as opened:
            if opened.format != "PNG" or opened.size != (width, height):
                raise FlexEditError(
                    f"The mask is a {opened.format} of {opened.width}×{opened.height} pixels; "
                    f"this scene needs a PNG of {width}×{height}."
                )
            mask = np.asarray(opened.convert("L")) > 127
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FlexEditError(f"The mask cannot be read ({error}).") from error
    if not mask.any():
        raise FlexEditError("The redrawn mask is empty. Paint what you mean, then save again.")
    return mask


def write_mask(folder: Path, case: Case, mask: np.ndarray) -> str:
    """Writes mask (H, W) beside the case's present one; → its name relative to the folder."""
    old = inside(folder, case.mask)
    for number in range(1, 10_000):
        file = old.with_name(f"{old.stem.partition('.redrawn')[0]}.redrawn{number}.png")
        if not file.exists():
            Image.fromarray(mask.astype(np.uint8) * 255).save(file)
            return Path(case.mask).with_name(file.name).as_posix()
    raise FlexEditError(f"{old.parent} is full of redrawn masks of {case.id!r}. Remove some.")


def inside(folder: Path, name: str) -> Path:
    """The file of that name, which must not lead out of the folder."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise Refusal(HTTPStatus.FORBIDDEN, f"{name} lies outside the benchmark.")
    return file


# The server


class Refusal(FlexEditError):
    """A request that is answered with this HTTP status."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReviewServer(ThreadingHTTPServer):
    """`url` is where it listens; `serve_forever` and `shutdown` as in the standard library."""

    daemon_threads = True

    def __init__(self, folder: str | Path, port: int = 0) -> None:
        self.folder = Path(folder)
        self.lock = threading.Lock()  # one decision after the other
        Benchmark(folder)  # wrong folders are told at once, not in the browser
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise FlexEditError(
                f"Port {port} cannot be used ({error}). Choose another, or 0 for any free one."
            ) from error
        self.hosts = tuple(f"{name}:{self.server_port}" for name in (HOST, "localhost"))

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """GET the page, /cases and /picture/<case>/<name>; POST a decision to /case/<case>."""

    server: ReviewServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds a silent connection is kept

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def _get(self) -> tuple[str, bytes]:
        match self._path():
            case ["cases"]:
                return as_json([asdict(case) for case in Benchmark(self.server.folder).cases])
            case ["picture", case_id, name] if name in FILES:
                return "image/png", self._picture(case_id, name)
            case _ if (asset := ASSETS.get(urlsplit(self.path).path)) is not None:
                return asset[1], (PAGES / asset[0]).read_bytes()
        raise Refusal(HTTPStatus.NOT_FOUND, f"There is no {self.path}.")

    def _picture(self, case_id: str, name: str) -> bytes:
        file = getattr(find(Benchmark(self.server.folder), case_id), name)
        if file is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"The case {case_id!r} has no {name}.")
        try:
            return inside(self.server.folder, file).read_bytes()
        except OSError as error:
            raise Refusal(HTTPStatus.NOT_FOUND, f"{file} cannot be read ({error}).") from error

    def _post(self) -> tuple[str, bytes]:
        match self._path():
            case ["case", case_id]:
                decision = self._body()
                with self.server.lock:
                    return as_json(asdict(decide(Benchmark(self.server.folder), case_id, decision)))
        raise Refusal(HTTPStatus.NOT_FOUND, f"There is no {self.path}.")

    def _path(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]

    def _body(self) -> Any:
        if self.headers.get_content_type() != "application/json":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Decisions are application/json.")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,15}", length):
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "The request does not say its length.")
        if int(length) > MAX_BODY:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The request has {length} bytes; at most {MAX_BODY} are read.",
            )
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise FlexEditError(f"The decision is no JSON ({error}).") from error

    def _refuse_strangers(self) -> None:
        """A website cannot send our host name, nor hide its own where it posts."""
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in self.server.hosts or (
            origin is not None and origin not in [f"http://{host}" for host in self.server.hosts]
        ):
            raise Refusal(HTTPStatus.FORBIDDEN, f"Only the page at {self.server.url} may ask.")

    def _respond(self, answer: Callable[[], tuple[str, bytes]]) -> None:
        status = HTTPStatus.OK
        try:
            self._refuse_strangers()
            content_type, body = answer()
        except FlexEditError as error:
            status = error.status if isinstance(error, Refusal) else HTTPStatus.BAD_REQUEST
            content_type, body = as_json({"error": str(error)})
            self.close_connection = True  # its body may be unread
        try:
            self.send_response(status)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:  # the browser went on to another page
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the page itself shows what went wrong."""


def as_json(value: Any) -> tuple[str, bytes]:
    return "application/json; charset=utf-8", json.dumps(value, ensure_ascii=False).encode()
