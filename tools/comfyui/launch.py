"""python launch.py <ComfyUI>/main.py [arguments]: runs ComfyUI as `python main.py` would.

The environment variable HIDDEN names packages that it shall not find.

It ends with whoever started it: its standard input is a pipe that the parent keeps open, so that
even a killed parent leaves no server behind.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from pathlib import Path

import hide


def end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main(script: str, *arguments: str) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    hide.hide(*os.environ.get("HIDDEN", "").split())
    folder = Path(script).resolve().parent
    os.chdir(folder)
    sys.argv = [script, *arguments]
    sys.path[0] = str(folder)  # in place of ours, which has a server.py of its own
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
