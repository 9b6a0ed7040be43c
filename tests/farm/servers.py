"""A small ComfyUI of our own that can die, forget and lie when it is told to, as a real one will
not. What it answers otherwise is held to a real one by tests/comfyui/test_farm.py.
"""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from aiohttp import WSCloseCode, web
from PIL import Image

GRAPH = {
    "1": {
        "class_type": "LoadImage",
        "inputs": {"image": "example.png"},
        "_meta": {"title": "Scene"},
    },
    "2": {
        "class_type": "Edit",
        "inputs": {"scene": ["1", 0], "instruction": "", "seed": 0, "steps": 4},
        "_meta": {"title": "Edit"},
    },
    "3": {
        "class_type": "SaveImage",
        "inputs": {"images": ["2", 0], "filename_prefix": "x"},
        "_meta": {"title": "Save"},
    },
}
INFO = {
    "LoadImage": {"input": {"required": {"image": [["example.png"], {"image_upload": True}]}}},
    "Edit": {
        "input": {
            "required": {
                "scene": ["IMAGE"],
                "instruction": ["STRING", {}],
                "seed": ["INT", {}],
                "steps": ["INT", {}],
            }
        }
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output_node": True,
    },
}


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


class Fake:
    """mood(graph's Edit inputs) → what it does to that edit: "well", "refuse", "fail", "die",
    "forget", "empty", "cut", "nonsense" or "hang".
    """

    def __init__(self, mood: Callable[[dict[str, Any]], str] | None = None, seconds: float = 0.01):
        self.mood = mood or (lambda _: "well")
        self.seconds, self.ending = seconds, ".png"  # of its results
        self.made: Counter[int] = Counter()  # by seed
        self.uploads: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.nodes = dict(INFO)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.answers: dict[str, Any] = {}  # instead of the right ones, by the path's first part
        self.held = False  # while it is, nothing gets done
        self.interrupted: list[str] = []  # what it was asked to end
        self.port = self.deaths = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Also after it died: with nothing in its memory, at the same address."""
        self._call(self._start()).result(30)

    def stop(self) -> None:
        if self.alive:
            self._call(self._die()).result(30)

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _call(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _start(self) -> None:
        self.alive = True
        self.history: dict[str, Any] = {}
        self.queue: list[str] = []
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.busy = asyncio.Lock()
        app = web.Application(middlewares=[self._instead])
        app.router.add_get("/ws", self._ws)
        app.router.add_get("/system_stats", self._stats)
        app.router.add_get("/object_info/{name}", self._info)
        app.router.add_get("/queue", self._queue)
        app.router.add_post("/queue", self._nothing)
        app.router.add_post("/interrupt", self._interrupt)
        app.router.add_get("/history/{id}", self._history)
        app.router.add_get("/view", self._view)
        app.router.add_post("/upload/image", self._upload)
        app.router.add_post("/prompt", self._prompt)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    @web.middleware
    async def _instead(self, request: web.Request, handler: Any) -> web.StreamResponse:
        first = request.path.split("/")[1]
        if first in self.answers and request.method != "HEAD":
            return web.json_response(self.answers[first])
        return await handler(request)

    async def _die(self) -> None:
        self.alive = False
        for task in self.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for socket in list(self.sockets.values()):
            await socket.close(code=WSCloseCode.GOING_AWAY)
        await self.runner.cleanup()

    async def _ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query["clientId"]] = socket
        await socket.send_json({"type": "status", "data": {}})
        async for _ in socket:
            pass
        return socket

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response({"system": {"comfyui_version": "0.0.0"}})

    async def _info(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response({name: self.nodes[name]} if name in self.nodes else {})

    async def _queue(self, _: web.Request) -> web.Response:
        listed = [[0, name, {}, {}, []] for name in self.queue]
        return web.json_response({"queue_running": listed[:1], "queue_pending": listed[1:]})

    async def _interrupt(self, request: web.Request) -> web.Response:
        self.interrupted.append((await request.json())["prompt_id"])
        return web.Response()

    async def _nothing(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _history(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if self.history.get(name) == "nonsense":
            return web.Response(text="<html>Please log in</html>", content_type="text/html")
        return web.json_response({name: self.history[name]} if name in self.history else {})

    async def _view(self, request: web.Request) -> web.Response:
        content = self.files.get(request.query["filename"])
        return web.Response(status=404) if content is None else web.Response(body=content)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        name, content = form["image"].filename, form["image"].file.read()
        self.files[name] = content
        self.uploads[name] += 1
        return web.json_response({"name": name})

    async def _prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        given = body["prompt"]["2"]["inputs"]
        if self.mood(given) == "refuse":
            error = {"message": "Value not in list", "details": "instruction"}
            errors = {"2": {"class_type": "Edit", "errors": [error], "dependent_outputs": []}}
            refusal = {"error": {"message": "failed validation"}, "node_errors": errors}
            return web.json_response(refusal, status=400)
        self.queue.append(body["prompt_id"])
        task = asyncio.create_task(self._run(body["prompt_id"], body["client_id"], given))
        self.tasks.add(task)
        return web.json_response({"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})

    async def _run(self, name: str, client: str, given: dict[str, Any]) -> None:
        async with self.busy:
            mood = self.mood(given)
            await self._say(client, "execution_start", {"prompt_id": name})
            await asyncio.sleep(self.seconds)
            while self.held:
                await asyncio.sleep(0.01)
            if mood == "die":
                self.deaths += 1
                await self._die()
                return
            if mood == "hang":
                await asyncio.sleep(3600)
            self.made[given["seed"]] += 1
            file = name + self.ending
            self.files[file] = png(given["seed"])[: 40 if mood == "cut" else None]
            entry = {"filename": file, "subfolder": "", "type": "output"}
            seen = {"filename": "seen.png", "subfolder": "", "type": "temp"}
            self.files["seen.png"] = png(0)
            outputs = {"2": {"images": [seen], "text": ["a duck"]}, "3": {"images": [entry]}}
            if mood == "empty":
                outputs = {}
            if given["seed"] % 2:  # a real one's order is that of events
                outputs = dict(reversed(outputs.items()))
            status = {"status_str": "success", "completed": True, "messages": []}
            if mood == "fail":
                why = {"node_id": "2", "exception_message": "The mask is empty."}
                status = {"status_str": "error", "messages": [["execution_error", why]]}
            if mood != "forget":
                said = {"outputs": outputs, "status": status}
                self.history[name] = "nonsense" if mood == "nonsense" else said
            self.queue.remove(name)
            await self._say(client, "executing", {"prompt_id": name, "node": None})

    async def _say(self, client: str, kind: str, data: dict[str, Any]) -> None:
        if (socket := self.sockets.get(client)) and not socket.closed:
            await socket.send_str(json.dumps({"type": kind, "data": data}))
