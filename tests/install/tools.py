"""What people install node packs with: comfy-cli and ComfyUI-Manager, beside a ComfyUI of its own.

The tools live in an environment of their own that also sees this one's packages, as if ComfyUI ran
in it: what they install or repair there leaves this one as it is.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.comfyui.fetch import PACK, comfyui_path
from tools.comfyui.server import ComfyServer

TOOLS = ("comfy-cli==1.23.0", "comfyui-manager==4.3")
CACHE = PACK / ".cache" / "environments"
ARCHIVE = "node.zip"  # what comfy-cli calls it


def environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment with packages that come before this one's; made once."""
    key = hashlib.sha256("\n".join([sys.version, *packages]).encode()).hexdigest()[:8]
    folder = CACHE / f"{name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        also = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (site_of(python) / "base.pth").write_text(also)
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
        run(*pip, *packages, timeout=1800)
        (folder / "ready").touch()
    return python


def site_of(python: Path) -> Path:
    """Where an environment has its packages."""
    printed = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    return Path(printed.strip())


def run(*command: object, timeout: float = 300, **options: object) -> str:
    """→ what a command prints; raises AssertionError with all of it if the command fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        **options,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def comfy(*arguments: object, home: Path, folder: Path) -> str:
    """comfy-cli, run in `folder`, settings below `home`, without telemetry."""
    command = [
        environment("tools", TOOLS).with_name("comfy"),
        "--skip-prompt",
        "--no-enable-telemetry",
    ]
    return run(*command, *arguments, cwd=folder, env=settings(home))


def manager(*arguments: object, home: Path, comfyui: Path) -> str:
    """ComfyUI-Manager's own command line, about one ComfyUI."""
    variables = settings(home) | {"COMFYUI_PATH": str(comfyui)}
    return run(environment("tools", TOOLS), "-m", "cm_cli", *arguments, cwd=comfyui, env=variables)


def settings(home: Path) -> dict[str, str]:
    """Environment variables that keep what the tools remember below `home`."""
    places = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    return os.environ | places | {"COLUMNS": "200", "DO_NOT_TRACK": "1"}


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
    return folder


@contextlib.contextmanager
def served(repository: Path) -> Iterator[str]:
    """The address to clone a repository from, which ends as GitHub's do: in <name>.git."""
    bare = repository.with_suffix(".git")
    run("git", "clone", "--quiet", "--bare", repository, bare)
    run("git", "-C", bare, "update-server-info")  # git then reads it from any web server
    handler = functools.partial(QuietHandler, directory=str(bare.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{bare.name}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def clean_comfyui(folder: Path) -> Path:
    """A ComfyUI without custom nodes, models and pictures, in a folder of its own."""
    source, emptied = comfyui_path(), ("custom_nodes", "models", "output", "input", "user")

    def left_out(place: str, names: list[str]) -> set[str]:
        return {*emptied, ".git"} & set(names) if Path(place) == source else set()

    shutil.copytree(source, folder, ignore=left_out)
    for name in emptied:
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


class ServerOf(ComfyServer):
    """A ComfyUI with what was installed into it; $COMFYUI_PATH has to name it while it starts."""

    def __init__(self, comfyui: Path) -> None:
        super().__init__()
        self.comfyui = comfyui

    def _prepare_folder(self) -> None:
        self.folder = self.comfyui
