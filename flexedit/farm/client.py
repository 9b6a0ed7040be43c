"""One ComfyUI server: gives it an edit, follows it, fetches what came out.

Comfy's own clients do not fit: comfy-sdk speaks its API v2, which a ComfyUI has only behind a
proxy, and comfy-cli is a program whose parts are nobody's interface. This stands on aiohttp, which
every ComfyUI has.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from ..errors import FlexEditError
from ..files import read_picture
from ..validation import validated

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession, ClientWebSocketResponse

FOLDER = "flexedit"  # in a server's input folder
CONNECT, SILENCE = 10.0, 120.0  # seconds, of a connection and between its bytes
HEARTBEAT, LOOK = 20.0, 10.0  # seconds between signs of life, and between looks at the queue
SETTLE = 25  # tenths of a second until what is over stands in the history
PICTURE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Task:
    """graph: in API format, with the names of ``uploads`` filled in · uploads: files by their names
    in the server's input folder · seconds: how long it may take
    """

    id: str  # a UUID; a server that has it already is not given it again
    graph: Mapping[str, Any]
    uploads: Mapping[str, bytes]
    seconds: float


@dataclass(frozen=True)
class Output:
    title: str
    suffix: str
    content: bytes
    kept: bool  # in the server's output folder; else a preview


@dataclass(frozen=True)
class Outcome:
    """failed: by this edit's own fault, as the server says · lost: by the server's"""

    kind: Literal["done", "failed", "lost"]
    why: str = ""
    began: bool = False
    outputs: tuple[Output, ...] = ()
    texts: Mapping[str, list[str]] = field(default_factory=dict)  # by node title
    seconds: float = 0.0


class Failed(Exception):
    """The graph was refused, or a node ended it."""


class Lost(Exception):
    """The server went away, forgot the edit, or says what cannot be."""


# ComfyUI's answers, as far as we read them


@dataclass(frozen=True)
class Status:
    status_str: str
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Finished:
    outputs: dict[str, dict[str, Any]]
    status: Status | None = None


@dataclass(frozen=True)
class Queue:
    queue_running: list[list[Any]]
    queue_pending: list[list[Any]]


@dataclass(frozen=True)
class System:
    comfyui_version: str = "?"


@dataclass(frozen=True)
class Stats:
    system: System


@dataclass(frozen=True)
class NodeInfo:
    """A node's inputs, required and optional: kind and options by name"""

    input: dict[str, dict[str, Any]] = field(default_factory=dict)
    output_node: bool = False

    def specs(self, *parts: str) -> dict[str, list[Any]]:
        return {
            name: kind
            for part in parts or ("required", "optional")
            for name, kind in self.input.get(part, {}).items()
            if isinstance(kind, list) and kind
        }


@dataclass(frozen=True)
class NodeErrors:
    class_type: str
    errors: list[dict[str, Any]]


@dataclass(frozen=True)
class Answer:
    """To a graph"""

    prompt_id: str = ""
    error: dict[str, Any] | str | None = None
    node_errors: dict[str, NodeErrors] | list[Any] = field(default_factory=dict)


class Client:
    """Of the server at ``url``, like http://127.0.0.1:8188"""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session: ClientSession | None = None
        self._uploading = asyncio.Lock()

    @property
    def session(self) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout

        if self._session is None:  # made where it is used, in a running loop
            limits = ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
            self._session = ClientSession(timeout=limits, trust_env=not is_local(self.url))
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def describe(self, nodes: list[str]) -> dict[str, Any] | str:
        """ComfyUI's version and its nodes of these types; a text says why it does not answer."""
        from aiohttp import ClientError

        try:
            stats = await self._read(Stats, "system_stats")
            info: dict[str, Any] = {}
            for name in nodes:
                info |= await self._read(dict[str, NodeInfo], f"object_info/{name}")
            return {"version": stats.system.comfyui_version, "nodes": info}
        except (Lost, ClientError, OSError, asyncio.TimeoutError) as error:
            return said(error)

    async def edit(self, task: Task) -> Outcome:
        """Never raises for what a server does."""
        from aiohttp import ClientError

        start = time.monotonic()
        follower = Follower(task.id)
        try:
            outputs, texts = await asyncio.wait_for(self._edit(task, follower), task.seconds)
        except Failed as error:
            return Outcome("failed", str(error), follower.began)
        except (Lost, ClientError) as error:  # some of aiohttp's are TimeoutErrors, too
            return Outcome("lost", said(error), follower.began)
        except asyncio.TimeoutError:
            await self._forget(task.id)
            return Outcome("lost", f"not done after {task.seconds:g} seconds", follower.began)
        except OSError as error:
            return Outcome("lost", said(error), follower.began)
        seconds = round(time.monotonic() - start, 3)
        return Outcome("done", "", True, outputs, texts, seconds)

    async def _edit(
        self, task: Task, follower: Follower
    ) -> tuple[tuple[Output, ...], dict[str, list[str]]]:
        events = await self._connect(task.id)
        try:
            if not await self._has(task.id):
                async with self._uploading:  # what several edits need, once
                    for name, content in task.uploads.items():
                        await self._upload(name, content)
                await self._queue(task)
            while not await follower.follow(events):
                if await self._finished(task.id):  # its last word was missed
                    break
                if not await self._has(task.id):
                    raise Lost("it forgot the edit")
                if events.closed:
                    events = await self._connect(task.id)
        finally:
            await events.close()
        for _ in range(SETTLE):
            if finished := await self._finished(task.id):
                return await self._fetch(finished, task.graph)
            await asyncio.sleep(0.1)
        raise Lost("it forgot the edit")

    async def _connect(self, client_id: str) -> ClientWebSocketResponse[bool]:
        return await self.session.ws_connect(
            f"{self.url}/ws", params={"clientId": client_id}, heartbeat=HEARTBEAT, max_msg_size=0
        )

    async def _has(self, prompt_id: str) -> bool:
        queue = await self._read(Queue, "queue")
        waiting = [item[1] for item in queue.queue_running + queue.queue_pending if len(item) > 1]
        return prompt_id in waiting or await self._finished(prompt_id) is not None

    async def _finished(self, prompt_id: str) -> Finished | None:
        history = await self._read(dict[str, Finished], f"history/{prompt_id}")
        return history.get(prompt_id)

    async def _upload(self, name: str, content: bytes) -> None:
        """Unless it is there: names are made of what is in the files."""
        from aiohttp import FormData

        where = {"filename": name, "subfolder": FOLDER, "type": "input"}
        async with self.session.head(f"{self.url}/view", params=where) as answer:
            if answer.status == 200 and answer.content_length == len(content):
                return
        form = FormData({"subfolder": FOLDER, "type": "input", "overwrite": "true"})
        form.add_field("image", content, filename=name)
        async with self.session.post(f"{self.url}/upload/image", data=form) as answer:
            if answer.status != 200:
                raise Lost(f"it does not take {name} ({answer.status})")

    async def _queue(self, task: Task) -> None:
        body = {"prompt": task.graph, "client_id": task.id, "prompt_id": task.id}
        async with self.session.post(f"{self.url}/prompt", json=body) as response:
            answer = await self._answer(Answer, response, 200, 400)
        wrong = []
        if isinstance(answer.node_errors, dict):
            wrong = [
                f"{title(task.graph, key)}: {error.get('message')}, {error.get('details')}"
                for key, node in answer.node_errors.items()
                for error in node.errors
            ]
        if wrong or answer.error:
            await self._forget(task.id)  # it would make those results that nothing is wrong with
            error = answer.error
            whole = error.get("message") if isinstance(error, dict) else error
            raise Failed("; ".join(wrong) or str(whole))
        if answer.prompt_id != task.id:
            await self._forget(answer.prompt_id)
            raise Failed("this ComfyUI takes no ids for edits: update it")

    async def _forget(self, prompt_id: str) -> None:
        """Takes an edit out of the queue, or ends it if it runs."""
        from aiohttp import ClientError

        try:
            await self._tell("queue", {"delete": [prompt_id]})
            queue = await self._read(Queue, "queue")
            # servers of old would end whatever runs, whoever's it is
            if any(prompt_id in item[1:2] for item in queue.queue_running):
                await self._tell("interrupt", {"prompt_id": prompt_id})
        except (Lost, ClientError, OSError, asyncio.TimeoutError):
            pass  # then it has forgotten more than that

    async def _tell(self, path: str, what: Mapping[str, Any]) -> None:
        async with self.session.post(f"{self.url}/{path}", json=what):
            pass

    async def _fetch(
        self, finished: Finished, graph: Mapping[str, Any]
    ) -> tuple[tuple[Output, ...], dict[str, list[str]]]:
        status = finished.status
        if status and status.status_str != "success":
            for kind, data in status.messages:
                if kind == "execution_error":
                    where = title(graph, str(data.get("node_id")))
                    raise Failed(f"{where}: {str(data.get('exception_message')).strip()}")
            raise Lost("somebody interrupted the edit")
        outputs: list[Output] = []
        texts: dict[str, list[str]] = {}
        keys = [
            *graph,
            *sorted(finished.outputs.keys() - graph.keys()),
        ]  # not in the order of events
        for key in filter(finished.outputs.__contains__, keys):
            for value in finished.outputs[key].values():
                for entry in value if isinstance(value, list | tuple) else ():
                    if isinstance(entry, str):
                        texts.setdefault(title(graph, key), []).append(entry)
                    elif isinstance(entry, dict) and isinstance(entry.get("filename"), str):
                        outputs.append(await self._view(entry, title(graph, key)))
        if not outputs and not texts:
            raise Lost("it says that the edit is done, and has no result")
        return tuple(sorted(outputs, key=lambda output: not output.kept)), texts

    async def _view(self, entry: Mapping[str, Any], of: str) -> Output:
        name, kind = entry["filename"], str(entry.get("type", "output"))
        where = {"filename": name, "subfolder": str(entry.get("subfolder", "")), "type": kind}
        async with self.session.get(f"{self.url}/view", params=where) as answer:
            if answer.status != 200:
                raise Lost(f"it does not have its result {name} ({answer.status})")
            content = await answer.read()
        suffix = PurePath(name).suffix.lower()
        try:
            if not content:
                raise FlexEditError("It is empty.")
            if suffix in PICTURE:
                read_picture(io.BytesIO(content), mode=None)
        except FlexEditError as error:
            raise Lost(f"its result {name} is broken. {error}") from error
        if not re.fullmatch(r"\.\w{1,16}", suffix):
            suffix = ".bin"  # none would give it the name of the folder for the other results
        return Output(of, suffix, content, kind == "output")

    async def _read(self, kind: Any, path: str) -> Any:
        async with self.session.get(f"{self.url}/{path}") as answer:
            return await self._answer(kind, answer, 200)

    async def _answer(self, kind: Any, response: ClientResponse, *statuses: int) -> Any:
        path = response.url.path
        if response.status not in statuses:
            raise Lost(f"it answers {response.status} to {path}")
        try:
            return validated(kind, json.loads(await response.read()), path)
        except (FlexEditError, ValueError, RecursionError) as error:
            raise Lost(f"it answers what no ComfyUI says. {path}: {error}") from error


class Follower:
    """Listens for one edit's events."""

    def __init__(self, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self.began = False

    async def follow(self, events: ClientWebSocketResponse[bool]) -> bool:
        """Until the edit is over (True), or nothing was heard for a while (False)."""
        from aiohttp import WSMsgType

        while True:
            try:
                message = await events.receive(LOOK)
            except asyncio.TimeoutError:
                return False
            if message.type == WSMsgType.BINARY:  # a preview of the picture in the making
                continue
            if message.type != WSMsgType.TEXT:
                return False
            try:
                event = json.loads(message.data)
                kind, data = event["type"], event["data"]
                mine = data.get("prompt_id") == self.prompt_id
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue
            if mine:
                self.began = True
                if kind == "executing" and data.get("node") is None:
                    return True


def title(graph: Mapping[str, Any], key: str) -> str:
    node = graph.get(key, {})
    meta = node.get("_meta")
    named = meta.get("title") if isinstance(meta, dict) else None
    return str(named or node.get("class_type") or f"node {key}")


def public(url: str) -> str:
    """A server's address without name and password"""
    from yarl import URL

    return str(URL(url).with_user(None)).rstrip("/")


def said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def is_local(url: str) -> bool:
    """No proxy stands between us and our own machine."""
    from yarl import URL

    return URL(url).host in ("localhost", "127.0.0.1", "::1")
