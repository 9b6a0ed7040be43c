"""A ComfyUI that serves nobody, for checks that look inside it: one process, on the CPU.

A test calls ``run(Path("parity.py"), "compare", folder)`` and gets what the script's function
returns; the script imports this file by its bare name, calls ``enter()`` before it imports comfy,
and ends in ``main``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PACK = Path(__file__).resolve().parents[2]
HERE = str(Path(__file__).resolve().parent)
NAME = "flexedit_pack"  # what ComfyUI would call the pack's root module


def run(
    script: Path, function: str, *arguments: str | Path, threads: int = 1, timeout: float = 600
) -> Any:
    """Calls a function of a script in a process of its own → what it returns.

    ``threads``: small models are fastest with one.
    """
    from tools.comfyui.fetch import comfyui_path

    environment = os.environ | {"COMFYUI_PATH": str(comfyui_path()), "HF_HUB_OFFLINE": "1"}
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["PYTHONPATH"] = HERE
    done = subprocess.run(
        [sys.executable, script, function, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise AssertionError(f"{script.name} {function} failed.\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def enter() -> ModuleType:
    """Makes this process a ComfyUI and imports the pack as ComfyUI would, as NAME."""
    sys.path[0] = os.environ["COMFYUI_PATH"]  # in place of the script's folder
    sys.path.remove(HERE)  # which has a server.py
    sys.path.append(str(PACK))  # last: `import nodes` must find ComfyUI's

    from comfy.cli_args import args

    args.cpu = True
    spec = importlib.util.spec_from_file_location(
        NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = pack
    spec.loader.exec_module(pack)
    return pack


def main(functions: dict[str, Any], arguments: list[str]) -> None:
    """The end of such a script: calls what the test asked for, under ComfyUI's inference mode."""
    import torch

    name, *rest = arguments
    with torch.inference_mode():
        print("\n" + json.dumps(functions[name](*rest)))
