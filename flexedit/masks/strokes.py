"""Strokes: what a person drew on a picture, as the JSON a graph keeps, and the mask it makes.

{"version": 1, "strokes": [{"tool": "brush", "open": true, "width": 0.05, "points": [[0.2, 0.3]]}]}

Positions are fractions of the picture's width and height, widths of its shorter side, so that a
drawing survives another picture size while its lines stay round. docs/strokes.md is the reference;
web/drawing/shapes.js draws the same shapes in the browser.

N points, H × W height and width in pixels; a pixel belongs to a shape that covers its centre.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import FlexEditError
from . import shapes

VERSION = 1
DRAWN = "drawn"  # the mask kind that is made of strokes

SHAPES = ("circle", "rectangle", "triangle")  # by two opposite corners of their box
LINES = ("brush", "eraser")  # along their points
TOOLS = (*LINES, "lasso", *SHAPES)
NUM_POINTS = {"lasso": (3, math.inf)} | dict.fromkeys(SHAPES, (2, 2))  # at least, at most

REACH = 10.0  # pictures: how far outside a point may lie
MAX_POINTS = 100_000
THINNEST = math.sqrt(2)  # pixels: a line that wide covers a pixel wherever it runs
SPECK = 1e-9  # pixels
CROSSINGS = 1 << 17  # that are held at once

EXAMPLE = '{"version": 1, "strokes": [...]}'
EMPTY = "Nothing is drawn. Draw over the thing to edit, then queue again."
ERASED = "The drawing covers no pixel of the picture. Draw over the thing to edit and queue again."

Point = tuple[float, float]  # x, y


@dataclass(frozen=True)
class Stroke:
    """One stroke. `open` keeps only the line, `width` wide; else what lies within is filled.

    `points` are the path, or the two corners of a shape's box before it is turned by `rotation`
    degrees clockwise about its centre.
    """

    tool: str
    points: tuple[Point, ...]
    open: bool = False
    width: float = 0.05
    rotation: float = 0.0


def parse(text: str) -> tuple[Stroke, ...]:
    """The strokes in their order, none for an empty text; FlexEditError says which is wrong."""
    text = text.removeprefix("\ufeff")  # some programs begin with a mark
    if not text.strip():
        return ()
    try:
        drawing = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of endless digits
        message = f"The strokes are not JSON ({error}). Clear them and draw anew."
        raise FlexEditError(message) from error
    if not isinstance(drawing, dict):
        raise FlexEditError(
            f"The strokes must be a JSON object {EXAMPLE}, not {_shorten(drawing)}."
        )
    version = drawing.get("version")
    if type(version) is not int or version < 1:
        raise FlexEditError(f"The strokes have the version {_shorten(version)}; write {EXAMPLE}.")
    if version > VERSION:
        raise FlexEditError(
            f"The strokes have the version {version}, but this FlexEdit reads up to {VERSION}. "
            "Update FlexEdit."
        )
    if not isinstance(drawing.get("strokes"), list):
        found = _shorten(drawing.get("strokes"))
        raise FlexEditError(f'"strokes" must be a list, not {found}; write {EXAMPLE}.')
    _only_known(drawing, ("version", "strokes"), "The drawing")
    strokes = tuple(_stroke(one, number) for number, one in enumerate(drawing["strokes"], 1))
    num_points = sum(len(stroke.points) for stroke in strokes)
    if num_points > MAX_POINTS:
        raise FlexEditError(
            f"The strokes have {num_points} points; at most {MAX_POINTS} are drawn. "
            "Leave out points that lie close together."
        )
    return strokes


def _stroke(found: Any, number: int) -> Stroke:
    where = f"Stroke {number}"
    if not isinstance(found, dict):
        raise FlexEditError(f"{where} must be a JSON object, not {_shorten(found)}.")
    tool = found.get("tool")
    if tool not in TOOLS:
        raise FlexEditError(
            f"{where} has the unknown tool {_shorten(tool)}; choose one of {', '.join(TOOLS)}."
        )
    where = f"{where} ({tool})"
    known = ("tool", "points", "open", "width") + (("rotation",) if tool in SHAPES else ())
    _only_known(found, known, where)
    is_open = found.get("open", tool in LINES)
    if not isinstance(is_open, bool):
        raise FlexEditError(f'{where}: "open" must be true or false, not {_shorten(is_open)}.')
    width = found.get("width", Stroke.width)
    if not _is_number(width) or not 0 < width <= 1:
        raise FlexEditError(
            f'{where}: "width" must be above 0 and at most 1 (the picture\'s shorter side), '
            f"not {_shorten(width)}."
        )
    rotation = found.get("rotation", Stroke.rotation)
    if not _is_number(rotation) or not abs(rotation) <= 360:
        raise FlexEditError(
            f'{where}: "rotation" must be -360 to 360 degrees, not {_shorten(rotation)}.'
        )
    points = _points(found.get("points"), tool, where)
    return Stroke(tool, points, is_open, float(width), float(rotation))


def _points(found: Any, tool: str, where: str) -> tuple[Point, ...]:
    least, most = NUM_POINTS.get(tool, (1, math.inf))
    if not isinstance(found, list) or not least <= len(found) <= most:
        count = "two" if most == 2 else f"at least {least}"
        given = len(found) if isinstance(found, list) else _shorten(found)
        raise FlexEditError(f'{where}: "points" must list {count} [x, y], not {given}.')
    for index, point in enumerate(found, 1):
        if (
            not isinstance(point, list)
            or len(point) != 2
            or not all(_is_number(value) and abs(value) <= REACH for value in point)
        ):
            raise FlexEditError(
                f"{where}: point {index} must be [x, y], two fractions of the picture "
                f"between {-REACH:g} and {REACH:g}, not {_shorten(point)}."
            )
    return tuple((float(x), float(y)) for x, y in found)


def _is_number(value: Any) -> bool:
    """NaN passes; no comparison with it holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _only_known(found: dict[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := [key for key in found if key not in known]:
        raise FlexEditError(
            f"{where} has the unknown entry {_shorten(unknown[0])}; known are {', '.join(known)}."
        )


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def rasterise(
    strokes: Sequence[Stroke],
    height: int,
    width: int,
    on_stroke: Callable[[int], None] | None = None,
) -> Tensor:
    """The mask (H, W) of 0 and 1: strokes add in their order, an eraser takes from those before.

    ``on_stroke(count)``: called after each; what it raises ends the work.
    Raises FlexEditError where nothing is drawn, or nothing of it is left inside the picture.
    """
    if not strokes:
        raise FlexEditError(EMPTY)
    mask = np.zeros((height, width), bool)
    drawn: set[Stroke] = set()  # and not erased since: drawing them again changes nothing
    for count, stroke in enumerate(strokes, 1):
        if stroke.tool == "eraser":
            drawn.clear()
        if stroke not in drawn:
            _draw(mask, stroke)
        drawn.add(stroke)
        if on_stroke is not None:
            on_stroke(count)
    if not mask.any():
        raise FlexEditError(ERASED)
    return torch.from_numpy(mask).float()


def _draw(mask: np.ndarray, stroke: Stroke) -> None:
    if stroke.tool in SHAPES:
        _draw_shape(mask, stroke)
    else:
        _draw_path(mask, stroke)


def _draw_shape(mask: np.ndarray, stroke: Stroke) -> None:
    height, width = mask.shape
    (x0, y0), (x1, y1) = stroke.points
    shapes.rasterise(
        f"{stroke.tool} open" if stroke.open else stroke.tool,
        (height, width),
        center=((y0 + y1) / 2 * height, (x0 + x1) / 2 * width),
        size=(abs(y1 - y0) * height, abs(x1 - x0) * width),
        rotation=stroke.rotation,
        stroke=stroke.width * min(height, width),
        mask=mask,
    )


def _draw_path(mask: np.ndarray, stroke: Stroke) -> None:
    """Brush, eraser or lasso, into the mask."""
    height, width = mask.shape
    path = np.array(stroke.points) * (width, height)
    closed = np.concatenate([path, path[:1]])
    value = stroke.tool != "eraser"
    if not stroke.open:
        edges = (_edges(part[:-1], part[1:], height) for part in _parts(closed, height))
        _fill(mask, closed, 0.0, edges, value)
    if stroke.open or stroke.tool in LINES:
        radius = max(stroke.width * min(height, width), THINNEST) / 2
        for part in _parts(closed if stroke.tool == "lasso" else path, 2 * radius):
            if (mask == value).all():
                break
            _fill(mask, part, radius, [_thick(part, radius, height)], value)


def _parts(path: np.ndarray, rows: float) -> Iterator[np.ndarray]:
    """path (N, 2) in parts (K, 2), each from where the one before it ends, whose edges cross about
    CROSSINGS pixel rows if each crosses ``rows``: so memory is bounded.
    """
    step = max(1, int(CROSSINGS / max(1.0, rows)))
    for first in range(0, max(1, len(path) - 1), step):
        yield path[first : first + step + 1]


# Filling by winding number: an outline is where it crosses the centre lines of the pixel rows,
# +1 on its way down and -1 on its way up; a pixel is inside where the sum from the left is not 0.

Crossings = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, x in pixels, ±1; each (N,)


def _fill(
    mask: np.ndarray, path: np.ndarray, radius: float, parts: Iterable[Crossings], value: bool
) -> None:
    """The outline whose crossings are given in parts, all within ``radius`` of a path (N, 2)"""
    limits = np.array(mask.shape[::-1])
    left, top = np.clip(np.floor(path.min(0) - radius), 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(path.max(0) + radius), 0, limits).astype(int)
    window = mask[top:bottom, left:right]
    if not window.size:
        return
    width = right - left + 1  # the last column is outside
    steps = np.zeros((bottom - top) * width, np.int32)
    for rows, x, signs in parts:
        columns = np.clip(np.ceil(x - 0.5) - left, 0, width - 1).astype(int)
        np.add.at(steps, (rows - top) * width + columns, signs)
    np.cumsum(steps, out=steps)  # rows sum to 0 each
    window[(steps != 0).reshape(-1, width)[:, :-1]] = value


def _edges(start: np.ndarray, end: np.ndarray, height: int) -> Crossings:
    """The crossings of the edges from start to end (N, 2)"""
    top, bottom = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    index, rows = _rows(top, bottom, height)
    (x0, y0), (x1, y1) = start[index].T, end[index].T
    return (
        rows,
        x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0),
        np.where(y1 > y0, 1, -1).astype(np.int32),
    )


def _thick(path: np.ndarray, radius: float, height: int) -> Crossings:
    """All within `radius` of a path (N, 2): a disc on each point, a rectangle on each segment."""
    x, y = path.T
    index, rows = _rows(y - radius, y + radius, height)
    half = np.sqrt(np.maximum(radius**2 - (rows + 0.5 - y[index]) ** 2, 0))
    down = np.ones(len(rows), np.int32)
    discs = [(rows, x[index] - half, down), (rows, x[index] + half, -down)]

    along = np.diff(path, axis=0)
    length = np.hypot(along[:, 0], along[:, 1])
    has_sides = length > SPECK  # shorter ones add nothing to their discs, and divide badly
    start, along, length = path[:-1][has_sides], along[has_sides], length[has_sides, None]
    side = along[:, ::-1] * (1, -1) * (radius / length)  # the left edge goes down, as the discs'
    corners = np.stack([start + side, start - side, start + along - side, start + along + side], 1)
    sides = _edges(corners.reshape(-1, 2), np.roll(corners, -1, 1).reshape(-1, 2), height)
    rows, x, signs = (np.concatenate(parts) for parts in zip(*discs, sides, strict=True))
    return rows, x, signs


def _rows(top: np.ndarray, bottom: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixel rows whose centre lies in top … bottom (N,) → which of the N, row; each (M,)"""
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(int) for y in (top, bottom))
    count = last - first
    index = np.repeat(np.arange(len(count)), count)
    return index, np.arange(len(index)) + (first - np.cumsum(count) + count)[index]
