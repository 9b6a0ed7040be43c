"""What people install node packs with: comfy-cli and ComfyUI-Manager, beside a ComfyUI of its own.

The tools live in an environment of their own that also sees this one's packages, as if ComfyUI ran
in it: what they install or repair there leaves this one as it is.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.comfyui.fetch import PACK, comfyui_path
from tests.comfyui.server import ComfyServer

TOOLS = ("comfy-cli==1.23.0", "comfyui-manager==4.3")
CACHE = PACK / ".cache" / "comfy-tools"
ARCHIVE = "node.zip"  # what comfy-cli calls it


def environment() -> Path:
    """The Python that has the tools; made once, about half a minute."""
    folder = CACHE / "-".join([*TOOLS, *map(str, sys.version_info[:2])]).replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        Path(site, "comfyui.pth").write_text(sysconfig.get_path("purelib") + "\n")
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *TOOLS)
        (folder / "ready").touch()
    return python


def run(*command: object, **options: object) -> str:
    """→ what a command prints; raises AssertionError with all of it if the command fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        **options,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def comfy(*arguments: object, home: Path, folder: Path) -> str:
    """comfy-cli, run in `folder`, settings below `home`, without telemetry."""
    settings = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "COLUMNS": "200"}
    command = [environment().with_name("comfy"), "--skip-prompt", "--no-enable-telemetry"]
    return run(*command, *arguments, cwd=folder, env=os.environ | settings | {"DO_NOT_TRACK": "1"})


def repository(folder: Path) -> Path:
    """A repository of the pack as it lies here: what git keeps of it, and what is new."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=PACK)
    for name in filter(None, listed.split("\0")):
        if (PACK / name).is_file():  # not one that was deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACK / name, folder / name)
    git = ("git", "-C", folder, "-c", "user.name=test", "-c", "user.email=test@localhost")
    run(*git, "init", "--quiet")
    run(*git, "add", "--all")
    run(*git, "commit", "--quiet", "--message", "as it lies here")
    run(*git, "update-server-info")  # git then reads it from any web server
    return folder


@contextlib.contextmanager
def served(repository: Path) -> Iterator[str]:
    """The address to clone a repository from."""
    handler = functools.partial(QuietHandler, directory=str(repository.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{repository.name}/.git"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def clean_comfyui(folder: Path) -> Path:
    """A ComfyUI without custom nodes, in a folder of its own."""
    ignored = shutil.ignore_patterns("custom_nodes", "models", "output", "input", "user", ".git")
    shutil.copytree(comfyui_path(), folder, ignore=ignored)
    for name in ("custom_nodes", "models", "output", "input", "user"):
        (folder / name).mkdir()
    return folder


class ServerWithArchive(ComfyServer):
    """A ComfyUI that has the registry's archive unpacked in place of the pack as it lies here."""

    def __init__(self, archive: Path) -> None:
        super().__init__()
        self.archive = archive

    def _prepare_folder(self) -> None:
        super()._prepare_folder()
        installed = self.folder / "custom_nodes" / "flexedit"
        installed.unlink()  # a link to the pack
        with zipfile.ZipFile(self.archive) as archive:
            archive.extractall(installed)
