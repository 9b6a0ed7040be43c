"""``mask``: draws one, of a kind or from strokes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import FlexEditError
from .arguments import PATH, POSITIVE, SEED, Report, together

# what a kind of free-shape mask is drawn with, and a drawing is not; `draw` has the defaults
SHAPE = {
    "x": "its middle, as a fraction of the picture's width, from the left",
    "y": "as a fraction of its height, from the top",
    "shape_width": "as a fraction of the picture's width",
    "shape_height": "as a fraction of its height",
    "rotation": "degrees clockwise",
    "stroke": "of open kinds, as a fraction of the shorter side",
    "seed": "the outline of irregular kinds",
}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@click.command()
@click.argument("kind", default="")
@click.option("--strokes", type=PATH, help="instead of a kind: a drawing, as JSON")
@click.option("--out", type=PATH, required=True)
@click.option("--size", type=POSITIVE, nargs=2, metavar="WIDTH HEIGHT", default=(512, 512))
@together(
    *(
        click.option(_option(name), type=SEED if name == "seed" else click.FLOAT, help=says)
        for name, says in SHAPE.items()
    )
)
def mask(kind: str, strokes: Path | None, out: Path, size: tuple[int, int], **given: Any) -> Report:
    """Draw a free-shape mask.

    KIND is circle, rectangle, triangle or irregular; each also + ' open'.
    """
    if bool(kind) == bool(strokes):
        raise FlexEditError("Give either a kind of mask, or --strokes FILE with a drawing.")
    shape = {name: value for name, value in given.items() if value is not None}
    if strokes is not None and shape:
        unused = ", ".join(map(_option, shape))
        raise FlexEditError(f"Leave out {unused}: a drawing has its own shapes.")
    drawing = None if strokes is None else _read(strokes)
    from .. import masks
    from ..files import write_picture
    from ..masks.strokes import parse, rasterise

    width, height = size
    if drawing is None:
        drawn = masks.draw(kind, height, width, **shape)
    else:
        drawn = rasterise(parse(drawing), height, width)
    write_picture(drawn[None], out)
    return {"out": str(out), "share": round(float(drawn.mean()), 4)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FlexEditError(f"{path} cannot be read ({error}). Give a text file.") from error
