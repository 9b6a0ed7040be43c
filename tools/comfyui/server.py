"""A real ComfyUI with this pack installed, and a client for it.

Example::

    with ComfyServer() as comfy:
        name = comfy.upload_image("scene.png")
        outputs = comfy.run(prompt)
        picture = comfy.fetch_image(outputs["9"]["images"][0])
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import websocket
from PIL import Image

from tools.comfyui.fetch import PACK, comfyui_path, page_path

Prompt = Mapping[str, Mapping[str, Any]]  # ComfyUI's API format: node id → {class_type, inputs}
OnProgress = Callable[[str, float, float], None]  # node id, value, maximum

LAUNCHER = Path(__file__).with_name("launch.py")
ITS_OWN = ("transformers", "einops", "scipy")  # ComfyUI needs them: hidden from packs alone
HIDE_FIRST = "import hide\n\nhide.hide(*{})\nfrom .pack import comfy_entrypoint\n"
FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
STARTUP, LONGEST_RUN = 180, 300  # seconds
LOG_TAIL = 6000  # characters
IMPORT_TIME = re.compile(r" (\d+\.\d+) seconds( \(IMPORT FAILED\))?: (.+)$", re.MULTILINE)


class ServerError(RuntimeError):
    """ComfyUI did not start, or ended while it was needed."""


@dataclass
class PromptFailed(RuntimeError):
    """A prompt was refused, failed in a node, or was interrupted.

    `exception_type` and `message` say what: a refused prompt has ComfyUI's error type
    (`value_not_in_list` …), an interrupted one `InterruptProcessingException`. `node_id` and
    `node_type` say where; None if no node is to blame.
    """

    exception_type: str
    message: str
    node_id: str | None = None
    node_type: str | None = None
    traceback: str = ""

    def __str__(self) -> str:
        where = f"node {self.node_id} ({self.node_type}): " if self.node_id is not None else ""
        return f"{where}{self.exception_type}: {self.message}\n{self.traceback}".rstrip()


class ComfyServer:
    """ComfyUI on the CPU in a folder of its own, with the pack linked in as custom_nodes/flexedit.

    `models` maps a name below ComfyUI's models folder to what shall lie there: {"flexedit/tiny":
    folder}. `arguments` are more of ComfyUI's command line. `pack` is the name of the pack's folder
    there. `hidden`: packages that the packs shall not find. `launch_with`: a command that runs
    commands, such as setpriv.
    """

    def __init__(
        self,
        *arguments: str,
        models: Mapping[str, str | Path] | None = None,
        pack: str = "flexedit",
        hidden: Sequence[str] = (),
        launch_with: Sequence[str] = (),
    ):
        self.arguments = arguments
        self.models = dict(models or {})
        self.pack = pack
        self.hidden = hidden
        self.launch_with = launch_with
        self._port = 0  # a free one, which it keeps
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy stands between us and our own machine

    def __enter__(self) -> ComfyServer:
        self._folder = tempfile.TemporaryDirectory(prefix="comfyui-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name).resolve()
        try:
            self._prepare_folder()
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _prepare_folder(self) -> None:
        for name in FOLDERS:
            (self.folder / name).mkdir()
        place = self.folder / "custom_nodes" / self.pack
        if later := [name for name in self.hidden if name in ITS_OWN]:
            place.mkdir()
            (place / "__init__.py").write_text(HIDE_FIRST.format(later))
            place = place / "pack"
        place.symlink_to(PACK, target_is_directory=True)
        for name, path in self.models.items():
            self.link_model(name, path)

    def _start(self) -> None:
        host, port = "127.0.0.1", self._port or _free_port()
        self._port = port
        self.address = f"{host}:{port}"
        comfyui = comfyui_path()
        command = [*self.launch_with, sys.executable, LAUNCHER, comfyui / "main.py", "--cpu"]
        command += ["--listen", host, "--port", port, "--base-directory", self.folder]
        command += ["--database-url", f"sqlite:///{self.folder}/comfyui.db"]
        command += ["--disable-auto-launch", "--disable-api-nodes", *self.arguments]
        if page := page_path(comfyui):
            command += ["--front-end-root", page]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        environment["HIDDEN"] = " ".join(set(self.hidden) - set(ITS_OWN))
        environment.pop("PYTHONPATH", None)  # `import nodes` must find ComfyUI's, not ours
        with open(self.folder / "comfyui.log", "wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,  # the launcher ends when this closes
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        atexit.register(self.stop)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + STARTUP
        while time.monotonic() < deadline:
            self._check_alive()
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                if self._http.get(f"http://{self.address}/system_stats", timeout=5).ok:
                    return
            time.sleep(0.1)
        raise self._error(f"ComfyUI was not ready after {STARTUP} s")

    def _check_alive(self) -> None:
        if (code := self.process.poll()) is not None:
            raise self._error(f"ComfyUI ended with exit code {code}")

    def _error(self, what: str) -> ServerError:
        return ServerError(f"{what}. The end of its log:\n{self.log[-LOG_TAIL:]}")

    def stop(self) -> None:
        """Ends the server with all that it started, and removes its folder. Harmless to repeat."""
        atexit.unregister(self.stop)
        if process := getattr(self, "process", None):
            for how in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, how)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
            process.stdin.close()
            del self.process
        self._http.close()
        self._folder.cleanup()

    def kill(self) -> None:
        """Ends the server at once, as a crash would; its folder stays."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def restart(self) -> None:
        """Starts a server that was killed, at the same address."""
        self._start()
        self._wait_until_ready()

    @property
    def log(self) -> str:
        return (self.folder / "comfyui.log").read_text(encoding="utf-8", errors="replace")

    def import_seconds(self, pack: str = "flexedit") -> float:
        """How long ComfyUI took to import a custom node pack, to a tenth of a second."""
        for seconds, failed, path in IMPORT_TIME.findall(self.log):
            if Path(path).name == pack:
                if failed:
                    raise self._error(f"ComfyUI could not import {pack}")
                return float(seconds)
        raise self._error(f"ComfyUI lists no pack named {pack}")

    def link_model(self, name: str, path: str | Path) -> None:
        """Makes a file or folder appear as models/<name>."""
        link = self.folder / "models" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(path).resolve(strict=True))

    def get(self, path: str, **query: str) -> requests.Response:
        response = self._http.get(f"http://{self.address}/{path}", params=query, timeout=60)
        response.raise_for_status()
        return response

    def post(self, path: str, **content: Any) -> requests.Response:
        response = self._http.post(f"http://{self.address}/{path}", timeout=60, **content)
        if response.status_code != 400:  # 400 is ComfyUI's answer to a prompt it refuses
            response.raise_for_status()
        return response

    def object_info(self, node_id: str | None = None) -> dict[str, Any]:
        """What ComfyUI says about a node, or about all of them by id."""
        if node_id is None:
            return self.get("object_info").json()
        return self.get(f"object_info/{node_id}").json()[node_id]

    def upload_image(self, image: str | Path | Image.Image, name: str | None = None) -> str:
        """Puts a picture into the input folder → its name there, for LoadImage."""
        if isinstance(image, Image.Image):
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            content, name = buffer.getvalue(), name or "image.png"
        else:
            content, name = Path(image).read_bytes(), name or Path(image).name
        upload = {"files": {"image": (name, content)}, "data": {"overwrite": "true"}}
        return self.post("upload/image", **upload).json()["name"]

    def fetch_image(self, entry: Mapping[str, str]) -> Image.Image:
        """The picture that an output's entry {filename, subfolder, type} names."""
        return Image.open(io.BytesIO(self.get("view", **entry).content))

    def queue(self, prompt: Prompt, client_id: str | None = None) -> str:
        """Queues a prompt → its id. Raises PromptFailed if ComfyUI refuses any part of it.

        A script that names no client is told nothing; see :meth:`history`.
        """
        content = {"prompt": prompt} | ({"client_id": client_id} if client_id else {})
        answer = self.post("prompt", data=json.dumps(content)).json()  # json= would refuse NaN
        for node_id, refusal in (answer.get("node_errors") or {}).items():
            for error in refusal["errors"]:
                raise _refusal(error, node_id, refusal["class_type"])
        if error := answer.get("error"):
            raise _refusal(error)
        return answer["prompt_id"]

    def run(
        self, prompt: Prompt, on_progress: OnProgress | None = None
    ) -> dict[str, dict[str, Any]]:
        """Queues a prompt and waits for it → its outputs by node id. Raises PromptFailed if it
        fails, TimeoutError if it takes too long.
        """
        client_id, failure = uuid.uuid4().hex, None
        url = f"ws://{self.address}/ws?clientId={client_id}"
        connection = websocket.create_connection(url, timeout=60, http_no_proxy=["127.0.0.1"])
        with contextlib.closing(connection):
            connection.settimeout(1)  # between looks at whether ComfyUI is alive
            prompt_id = self.queue(prompt, client_id)
            for kind, data in self._events(connection, prompt_id):
                if kind == "progress" and on_progress:
                    on_progress(data["node"], data["value"], data["max"])
                elif kind in ("execution_error", "execution_interrupted"):
                    failure = _failure(data)
        if failure:
            raise failure
        return self.history(prompt_id)["outputs"]

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What ComfyUI keeps of a finished prompt: its outputs, status and messages."""
        return self.get(f"history/{prompt_id}").json()[prompt_id]

    def interrupt(self) -> None:
        """Stops the prompt that is running."""
        self.post("interrupt")

    def _events(
        self, connection: websocket.WebSocket, prompt_id: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """A prompt's events (kind, data) until it is done and its history complete."""
        deadline = time.monotonic() + LONGEST_RUN
        while time.monotonic() < deadline:
            try:
                message = connection.recv()
            except websocket.WebSocketTimeoutException:
                self._check_alive()
                continue
            except (websocket.WebSocketConnectionClosedException, ConnectionError) as error:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=5)
                raise self._error("ComfyUI closed the connection") from error
            if isinstance(message, bytes):  # a preview
                continue
            event = json.loads(message)
            kind, data = event["type"], event["data"]
            if data.get("prompt_id") == prompt_id:
                yield kind, data
                if kind == "executing" and data["node"] is None:
                    return
        self.interrupt()
        raise TimeoutError(f"Not done after {LONGEST_RUN} s.\n{self.log[-LOG_TAIL:]}")


def _refusal(error: Mapping[str, str], *node: str) -> PromptFailed:
    return PromptFailed(error["type"], f"{error['message']}: {error['details']}", *node)


def _failure(data: Mapping[str, Any]) -> PromptFailed:
    return PromptFailed(
        data.get("exception_type", "InterruptProcessingException"),
        data.get("exception_message", "interrupted").strip(),
        node_id=data["node_id"],
        node_type=data["node_type"],
        traceback="".join(data.get("traceback", ())),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
