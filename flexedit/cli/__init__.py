"""``python -m flexedit``: the same stages from a shell. Exit 0, or one line of error and exit 2.

With ``--json`` one JSON object goes to standard output; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import FlexEditError
from ..packages import needed
from . import bench, data, edit, mask, model, train
from .messages import NO_MEMORY, lacks_memory, warn


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # piped on Windows it has no → and no λ
            stream.reconfigure(encoding="utf-8", errors="replace")
    options = parser().parse_args(arguments)
    try:
        with needed():
            report = options.run(options)
    except (FlexEditError, OSError) as error:  # OSError: a path that cannot be read or written
        return _fail(str(error))
    except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
        if not lacks_memory(error):
            raise
        return _fail(NO_MEMORY)
    if getattr(options, "json", False):
        print(json.dumps(report))
    elif report:
        for key, value in report.items():
            print(f"{key}: {value}")
    return 0


def _fail(message: str) -> int:
    warn(message)
    return 2


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="flexedit", description=__doc__)
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(required=True, metavar="command")
    edit.add_commands(commands)
    mask.add_command(commands)
    model.add_info(commands)
    train.add_commands(commands)
    model.add_assemble(commands)
    data.add_command(commands)
    bench.add_commands(commands)
    return root


def __getattr__(name: str) -> object:
    """Scripts that were written for the first README look here for what `files` holds."""
    moved = {"read_picture": "load_picture", "write_picture": "write_picture"}
    if name not in moved:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .. import files

    return getattr(files, moved[name])
