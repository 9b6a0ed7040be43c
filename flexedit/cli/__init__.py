"""FlexEdit from a shell: the same stages as in Python and in ComfyUI.

Exit 0, or one line of error and exit 2. With --json one JSON object goes to standard output;
everything else goes to standard error.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from .. import __version__
from ..errors import FlexEditError
from ..packages import needed
from .arguments import AS_JSON
from .batch import batch, status
from .bench import bench
from .convert import convert
from .data import data
from .edit import edit, interpret
from .mask import mask
from .messages import NO_MEMORY, lacks_memory, warn
from .model import assemble, info
from .train import train

root = click.Group(
    help=__doc__,
    commands=[edit, batch, status, interpret, mask, info, train, assemble, convert, data, bench],
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
click.version_option(__version__, message="%(version)s")(root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was typed (default: in the shell) and prints what it reports → the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # piped on Windows it has no → and no λ
            stream.reconfigure(encoding="utf-8", errors="replace")
    # other libraries import it where it is installed; it then advises its developers
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with needed(), root.make_context("flexedit", words) as context:
            report = root.invoke(context)
    except click.exceptions.Exit as finished:  # by --help or --version
        return finished.exit_code
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except (FlexEditError, OSError) as error:  # OSError: a path that cannot be read or written
        message = str(error)
    except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
        if not lacks_memory(error):
            raise
        message = NO_MEMORY
    else:
        if context.meta.get(AS_JSON):
            print(json.dumps(report))
        else:
            for line in lines(report):
                print(line)
        return 0
    warn(message)
    return 2


def lines(report: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """A report for people to read: ``memory_mb.fp32.unet: 3438.1``"""
    for key, value in report.items():
        if isinstance(value, Mapping) and value:
            yield from lines(value, f"{within}{key}.")
        elif isinstance(value, Mapping | list):
            yield f"{within}{key}: {' '.join(map(str, value)) or 'nothing'}"
        elif value != "":
            yield f"{within}{key}: {value}"


def __getattr__(name: str) -> object:
    """Scripts that were written for the first README look here for what `files` holds."""
    moved = {"read_picture": "load_picture", "write_picture": "write_picture"}
    if name not in moved:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .. import files

    return getattr(files, moved[name])
