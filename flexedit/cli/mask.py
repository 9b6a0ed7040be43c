"""``mask``: draws one, of a kind or from strokes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import FlexEditError
from .arguments import positive, seed

# what a kind of free-shape mask is drawn with, and a drawing is not
SHAPE_OPTIONS = ("x", "y", "shape_width", "shape_height", "rotation", "stroke", "seed")


def add_command(commands: Any) -> None:
    mask = commands.add_parser("mask", help="draw a free-shape mask")
    mask.add_argument(
        "kind",
        nargs="?",
        help="circle, rectangle, triangle or irregular; each also + ' open'",
    )
    mask.add_argument("--strokes", type=Path, help="instead of a kind: a drawing, as JSON")
    mask.add_argument("--out", type=Path, required=True)
    mask.add_argument(
        "--size", type=positive, nargs=2, metavar=("WIDTH", "HEIGHT"), default=(512, 512)
    )
    for name in SHAPE_OPTIONS:
        read = seed if name == "seed" else float
        mask.add_argument(_option(name), type=read, default=argparse.SUPPRESS)  # draw has its own
    mask.set_defaults(run=run_mask)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def run_mask(options: argparse.Namespace) -> dict[str, Any]:
    from .. import masks
    from ..files import write_picture
    from ..masks import strokes

    width, height = options.size
    if (options.kind is None) == (options.strokes is None):
        raise FlexEditError("Give either a kind of mask, or --strokes FILE with a drawing.")
    shape = {name: value for name, value in vars(options).items() if name in SHAPE_OPTIONS}
    if options.strokes is None:
        drawn = masks.draw(options.kind, height, width, **shape)
    elif shape:
        given = ", ".join(map(_option, shape))
        raise FlexEditError(f"Leave out {given}: a drawing has its own shapes.")
    else:
        drawn = strokes.rasterise(strokes.parse(_read(options.strokes)), height, width)
    write_picture(drawn[None], options.out)
    return {"out": str(options.out), "share": round(float(drawn.mean()), 4)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FlexEditError(f"{path} cannot be read ({error}). Give a text file.") from error
