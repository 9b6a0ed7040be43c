import itertools
import json
import math
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexedit import masks
from flexedit.errors import FlexEditError
from flexedit.masks import strokes
from flexedit.masks.strokes import LINES, SHAPES, Stroke, parse, rasterise

DOCUMENT = Path(__file__).parents[2] / "docs" / "strokes.md"
LOOP = ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8))
BOX = ((0.25, 0.25), (0.75, 0.75))

quick = settings(max_examples=25, deadline=None)
points = st.tuples(st.floats(-0.3, 1.3), st.floats(-0.3, 1.3))
paths = st.lists(points, min_size=3, max_size=8).map(tuple)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
drawn = st.builds(
    Stroke,
    st.sampled_from(("brush", "lasso")),
    paths,
    st.booleans(),
    st.floats(0.01, 0.5),
) | st.builds(
    Stroke,
    st.sampled_from(strokes.SHAPES),
    st.tuples(points, points),
    st.booleans(),
    st.floats(0.01, 0.5),
    st.floats(-360, 360),
)


def pixels(drawing: list[Stroke], height: int = 64, width: int = 64) -> np.ndarray:
    """The mask as bool; all False where the drawing leaves nothing."""
    try:
        return rasterise(drawing, height, width).numpy() > 0
    except FlexEditError as error:
        assert "Draw over" in str(error)
        return np.zeros((height, width), bool)


def centres(height: int, width: int) -> np.ndarray:
    """(H, W, 2): x, y"""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x, y], -1)


def distance(path: np.ndarray, height: int, width: int) -> np.ndarray:
    """From every pixel's centre to a path in pixels, segment by segment."""
    where = centres(height, width)
    nearest = np.linalg.norm(where - path[0], axis=-1)
    for start, end in itertools.pairwise(path):
        along = end - start
        share = np.clip((where - start) @ along / max(along @ along, 1e-30), 0, 1)
        foot = start + share[..., None] * along
        nearest = np.minimum(nearest, np.linalg.norm(where - foot, axis=-1))
    return nearest


def winding(path: np.ndarray, height: int, width: int) -> np.ndarray:
    """How often a closed path turns around every pixel's centre, from the angles it is seen at."""
    seen = np.roll(path, -1, 0)[:, None, None] - centres(height, width)
    before = path[:, None, None] - centres(height, width)
    cross = before[..., 0] * seen[..., 1] - before[..., 1] * seen[..., 0]
    turns = np.arctan2(cross, (before * seen).sum(-1)).sum(0) / (2 * np.pi)
    return np.rint(turns)


# What a stroke covers


@quick
@given(paths, st.floats(0.05, 0.5), sizes)
@example(((0.0, 0.0), (2.2e-313, 0.0)), 0.5, (2, 1))
def test_a_brush_covers_what_is_nearer_than_half_its_width(path, width, size):
    radius = max(width * min(size), math.sqrt(2)) / 2
    away = distance(np.array(path) * size[::-1], *size) - radius
    certain = np.abs(away) > 1e-6
    assert np.array_equal(
        pixels([Stroke("brush", path, True, width)], *size)[certain], (away < 0)[certain]
    )


@quick
@given(paths, sizes)
def test_a_lasso_covers_what_it_goes_around(path, size):
    outline = np.array(path) * size[::-1]
    certain = distance(np.concatenate([outline, outline[:1]]), *size) > 1e-6
    inside = winding(outline, *size) != 0
    assert np.array_equal(pixels([Stroke("lasso", path)], *size)[certain], inside[certain])


def test_an_open_lasso_is_a_closed_line():
    line = pixels([Stroke("lasso", LOOP, True, 0.1)])
    assert np.array_equal(line, pixels([Stroke("brush", (*LOOP, LOOP[0]), True, 0.1)]))
    assert line[32, 13] and not line[32, 32]


def test_a_solid_brush_fills_what_it_goes_around_and_keeps_its_line():
    line = pixels([Stroke("brush", LOOP, True, 0.1)])
    filled = pixels([Stroke("brush", LOOP, False, 0.1)])
    assert filled[32, 32] and not line[32, 32]
    assert np.array_equal(filled, line | pixels([Stroke("lasso", LOOP)]))


def test_a_loop_drawn_twice_is_as_full_as_drawn_once():
    assert np.array_equal(pixels([Stroke("lasso", LOOP + LOOP)]), pixels([Stroke("lasso", LOOP)]))


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("tool", strokes.SHAPES)
def test_a_shape_is_the_one_that_is_drawn_by_numbers(tool, is_open):
    kind = f"{tool} open" if is_open else tool
    numbers = {"x": 0.4, "y": 0.45, "shape_width": 0.6, "shape_height": 0.3, "rotation": 30}
    shape = Stroke(tool, ((0.7, 0.3), (0.1, 0.6)), is_open, 0.08, 30.0)
    by_numbers = masks.draw(kind, 90, 120, stroke=0.08, **numbers)
    assert torch.equal(rasterise([shape], 90, 120), by_numbers)


def test_one_touch_of_the_brush_is_a_dot():
    dot = pixels([Stroke("brush", ((0.5, 0.5),), True, 0.25)], 200, 200)
    assert dot.sum() == pytest.approx(np.pi * 25**2, rel=0.01)
    assert dot[100, 76:124].all() and not dot[100, :75].any()


@quick
@given(points, st.floats(1e-6, 0.01), sizes)
def test_even_the_thinnest_brush_leaves_a_trace(point, width, size):
    x, y = point
    inside = 0 <= x <= 1 and 0 <= y <= 1
    assert pixels([Stroke("brush", (point,), True, width)], *size).any() or not inside


def test_a_line_is_as_round_in_a_wide_picture_as_in_a_square_one():
    dot = pixels([Stroke("brush", ((0.5, 0.5),), True, 0.5)], 40, 160)
    rows, columns = np.flatnonzero(dot.any(1)), np.flatnonzero(dot.any(0))
    assert len(rows) == len(columns) == 20 and columns[0] == 70


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("tool", strokes.TOOLS)
def test_a_picture_of_another_size_keeps_the_drawing(tool, is_open):
    path = BOX if tool in strokes.SHAPES else LOOP[1:]
    drawing = [Stroke(tool, path, is_open, 0.3)]
    if tool == "eraser":
        drawing.insert(0, Stroke("rectangle", ((0.0, 0.0), (1.0, 1.0))))
    small, large = pixels(drawing, 50, 80), pixels(drawing, 150, 240)
    assert np.array_equal(small, large[1::3, 1::3])  # the pixels with the same centres


# Many strokes


@quick
@given(st.lists(drawn, min_size=1, max_size=4))
def test_strokes_add_up_in_any_order(drawing):
    apart = np.any([pixels([stroke]) for stroke in drawing], 0)
    assert np.array_equal(pixels(drawing), apart)
    assert np.array_equal(pixels(drawing[::-1]), apart)


@quick
@given(drawn, paths, st.booleans(), drawn)
def test_an_eraser_takes_from_what_was_drawn_before_it_only(first, path, is_open, second):
    rubbed = pixels([Stroke("brush", path, is_open, 0.2)])
    drawing = [first, Stroke("eraser", path, is_open, 0.2), second]
    assert np.array_equal(pixels(drawing), (pixels([first]) & ~rubbed) | pixels([second]))


def test_an_empty_drawing_tells_the_person_to_draw():
    with pytest.raises(FlexEditError, match=r"Nothing is drawn\. Draw over the thing"):
        rasterise(parse(""), 8, 8)


@pytest.mark.parametrize(
    "drawing",
    [
        [Stroke("eraser", BOX, True)],
        [Stroke("lasso", LOOP), Stroke("eraser", LOOP, False)],
        [Stroke("circle", ((1.2, 0.1), (1.6, 0.4)))],
        [Stroke("brush", ((9.9, -9.9), (9.0, -9.0)), True)],
    ],
)
def test_a_drawing_of_which_nothing_is_left_says_so(drawing):
    with pytest.raises(FlexEditError, match="covers no pixel"):
        rasterise(drawing, 32, 32)


# Reading the JSON


def saved(*found: dict, version: object = 1) -> str:
    return json.dumps({"version": version, "strokes": list(found)})


def test_what_is_left_out_of_a_stroke_has_a_default():
    text = saved(
        {"tool": "brush", "points": [[0, 1]]},
        {"tool": "lasso", "points": LOOP},
        {"tool": "circle", "points": BOX, "open": True, "width": 0.1, "rotation": -20},
    )
    assert parse(text) == (
        Stroke("brush", ((0.0, 1.0),), True, 0.05),
        Stroke("lasso", LOOP, False, 0.05),
        Stroke("circle", BOX, True, 0.1, -20.0),
    )


@quick
@given(st.lists(drawn, max_size=4))
def test_a_drawing_is_read_as_it_was_written(drawing):
    shapes = [
        {"tool": it.tool, "points": it.points, "open": it.open, "width": it.width}
        | ({"rotation": it.rotation} if it.tool in strokes.SHAPES else {})
        for it in drawing
    ]
    assert parse(saved(*shapes)) == tuple(drawing)


@pytest.mark.parametrize("text", ["", "  \n", saved()])
def test_no_text_and_no_strokes_are_an_empty_drawing(text):
    assert parse(text) == ()


def test_the_documented_drawing_is_one():
    (text,) = re.findall("```json\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert {stroke.tool for stroke in parse(text)} == set(strokes.TOOLS) - {"rectangle"}
    assert rasterise(parse(text), 60, 80).any()


BRUSH = {"tool": "brush", "points": [[0.5, 0.5]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5000, "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"strokes": []}', "the version null; write"),
        (saved(version=True), "the version true; write"),
        (saved(version="1"), "the version"),
        (saved(BRUSH, version=2), "version 2, but this FlexEdit reads up to 1. Update"),
        ('{"version": 1}', '"strokes" must be a list, not null'),
        ('{"version": 1, "strokes": [], "zoom": 2}', 'unknown entry "zoom"'),
        (saved(BRUSH, 7), "Stroke 2 must be a JSON object, not 7"),
        (saved(BRUSH, {"tool": "spray"}), 'Stroke 2 has the unknown tool "spray"; choose one of b'),
        (saved({"tool": ["brush"]}), "unknown tool"),
        (saved(BRUSH | {"colour": 1}), r'Stroke 1 \(brush\) has the unknown entry "colour"'),
        (saved(BRUSH | {"rotation": 1}), 'unknown entry "rotation"'),
        (saved(BRUSH | {"open": 1}), '"open" must be true or false, not 1'),
        (saved(BRUSH | {"width": 0}), '"width" must be above 0'),
        (saved(BRUSH | {"width": True}), '"width" must be above 0'),
        (saved(BRUSH | {"width": 1.01}), "at most 1"),
        (saved(BRUSH | {"width": math.nan}), "not NaN"),
        (saved({"tool": "circle", "points": BOX, "rotation": math.inf}), '"rotation" must be'),
        (saved({"tool": "brush"}), '"points" must list at least 1'),
        (saved(BRUSH | {"points": []}), "at least 1"),
        (saved({"tool": "lasso", "points": BOX}), "at least 3"),
        (saved({"tool": "circle", "points": LOOP}), r"must list two \[x, y\], not 4"),
        (saved(BRUSH | {"points": [[0, 0], [0, "1"]]}), "point 2 must be"),
        (saved(BRUSH | {"points": [[0, False]]}), "point 1 must be"),
        (saved(BRUSH | {"points": [[0, math.nan]]}), "point 1 must be"),
        (saved(BRUSH | {"points": [[0, 10.5]]}), "between -10 and 10"),
        (saved(BRUSH | {"points": [[0, 10**400]]}), "between -10 and 10"),
        (saved(BRUSH | {"points": [[0, 0, 0]]}), "point 1 must be"),
        (saved(BRUSH | {"points": [[0.0, 0.0]] * 100_001}), "100001 points; at most 100000"),
    ],
)
def test_what_is_wrong_with_a_drawing_is_explained(text, message):
    with pytest.raises(FlexEditError, match=message) as error:
        parse(text)
    assert len(str(error.value)) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
near_strokes = st.fixed_dictionaries(
    {},
    optional={
        "tool": st.sampled_from(strokes.TOOLS) | json_values,
        "points": st.lists(st.lists(st.floats(), min_size=1, max_size=3)) | json_values,
        "open": json_values,
        "width": st.floats() | json_values,
        "rotation": json_values,
    },
)


@quick
@given(st.text() | json_values.map(json.dumps) | st.lists(near_strokes).map(lambda it: saved(*it)))
def test_whatever_is_handed_in_is_drawn_or_explained(text):
    try:
        drawing = parse(text)
    except FlexEditError:
        return
    pixels(list(drawing), 16, 16)


def peak_of(drawing: list[Stroke], side: int) -> tuple[int, int]:
    """→ pixels drawn, the most bytes that NumPy held meanwhile"""
    tracemalloc.start()
    mask = rasterise(drawing, side, side)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return int(mask.sum()), peak


@pytest.mark.parametrize("tool", ["brush", "lasso"])
@pytest.mark.parametrize("is_open", [True, False])
def test_memory_does_not_grow_with_the_points(tool, is_open):
    way = np.random.default_rng(0).random((20_000, 2)) * (1, 0.5)
    drawings = [Stroke(tool, tuple(map(tuple, part)), is_open, 0.2) for part in (way[:2000], way)]
    (_, few), (covered, many) = (peak_of([stroke], 512) for stroke in drawings)
    assert many < few + 40e6 and covered > 0.45 * 512**2


def test_parts_of_a_path_make_what_the_whole_path_makes(monkeypatch):
    way = tuple(map(tuple, np.random.default_rng(1).random((60, 2))))
    drawing = [Stroke(tool, way, is_open, 0.03) for tool in LINES for is_open in (True, False)]
    whole = rasterise([drawing[0], *reversed(drawing)], 90, 120)
    monkeypatch.setattr(strokes, "CROSSINGS", 200)
    assert torch.equal(rasterise([drawing[0], *reversed(drawing)], 90, 120), whole)


def test_a_stroke_that_is_there_again_costs_nothing_unless_it_was_erased():
    circle = Stroke("circle", ((0.0, 0.0), (1.0, 1.0)))
    eraser = Stroke("eraser", ((0.5, 0.5),), True, 0.5)
    seen = []
    mask = rasterise([circle] * 1000 + [eraser, circle], 512, 512, seen.append)
    assert torch.equal(mask, rasterise([circle], 512, 512)) and seen[-1] == 1002


@pytest.mark.parametrize("tool", SHAPES)
@pytest.mark.parametrize("is_open", [True, False])
def test_a_shape_of_one_point_is_a_dot(tool, is_open):
    for place in ((0.5, 0.5), (0.0, 1.0), (0.33, 0.71)):
        dot = rasterise([Stroke(tool, (place, place), is_open, 0.002)], 512, 512)
        assert 1 <= dot.sum() <= 4


def test_a_mark_at_the_start_is_passed_over():
    text = json.dumps({"version": 1, "strokes": [{"tool": "brush", "points": [[0.5, 0.5]]}]})
    assert parse("\ufeff" + text.replace(",", ",\r\n")) == parse(text) != ()
