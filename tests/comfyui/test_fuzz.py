"""Graphs that no person would make: each runs or ends in a sentence, and the next good one runs."""

import re
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.comfyui.graph import OPAQUE, Graph, free_shape, load
from tools.comfyui.server import PromptFailed

OURS = "FlexEdit"
NO_OUTPUT = re.compile(
    "index out of range"
)  # ComfyUI's, of a wire from an output that is not there
numbers = st.one_of(
    st.integers(-(2**65), 2**65), st.floats(), st.integers(-3, 70), st.floats(-2, 3), st.booleans()
)
texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ("", "\x00", "\ud800", "../../etc/passwd", "C:\\x", "[" * 2000, "<img_0>", "🦊")
    ),
)
values = st.one_of(
    numbers,
    texts,
    st.none(),
    st.lists(numbers, max_size=3),
    st.dictionaries(texts, numbers, max_size=2),
)


def whole_road(comfy, model: str, size: tuple[int, int], channels: int, batch: int) -> Graph:
    graph = Graph()
    height, width = size
    scene = load(graph, comfy, f"fuzz_{height}_{width}_{channels}.png", *size, channels=channels)
    whole = graph.add("JoinImageWithAlpha", image=scene[0], alpha=scene[1])
    scene = graph.add("RepeatImageBatch", image=whole[0], amount=batch)
    strokes = '{"version": 1, "strokes": [{"tool": "brush", "points": [[0.5, 0.5]], "width": 0.4}]}'
    scribble = free_shape(graph, "drawn", image=scene[0], strokes=strokes)
    resolving = {"method": "classic", "candidate": 1, "fill_holes": True, "min_area": 1}
    whole = graph.add(
        "FlexEditResolveMask", scene=scene[0], mask=scribble, grow=0, feather=0, **resolving
    )
    crop = graph.add("FlexEditCrop", scene=scene[0], mask=scribble, size=32, context=2.0)
    edited = graph.edit(model, crop[0], crop[1])
    painted = graph.add("FlexEditReadPaintedMask", scene=crop[0], painted=edited)
    graph.add("MaskPreview", mask=painted[0])
    result = graph.add(
        "FlexEditComposite", scene=scene[0], edited=edited, mask=whole[0], crop=crop[2], **OPAQUE
    )
    graph.save(result[0])
    return graph


def spoil(graph: Graph, draw: Any) -> None:
    """Some inputs get another value, another wire, or none."""
    ours = [node for node in graph.values() if node["class_type"].startswith(OURS)]
    for _ in range(draw(st.integers(0, 3))):
        inputs = draw(st.sampled_from(ours))["inputs"]
        name = draw(st.sampled_from(sorted(inputs))) if inputs else None
        how = draw(st.sampled_from(("value", "number", "wire", "missing")))
        if name is None or how == "missing":
            inputs.pop(name, None)
        elif how == "wire":
            inputs[name] = [draw(st.sampled_from(sorted(graph))), draw(st.integers(0, 6))]
        elif how == "number" and isinstance(inputs[name], int | float):
            by_wire = "PrimitiveInt" if isinstance(inputs[name], int) else "PrimitiveFloat"
            number = draw(st.integers(-600, 600))
            inputs[name] = graph.add(by_wire, value=number)[0]
        else:
            inputs[name] = draw(values)


def has_wire_from_nowhere(graph: Graph) -> bool:
    """To ComfyUI any list of two is a wire; what it says of one without a node is its own."""
    given = (value for node in graph.values() for value in node["inputs"].values())
    wires = [value for value in given if isinstance(value, list) and len(value) == 2]
    return any(source not in graph for source, _ in wires)


def complaint(comfy, graph: Graph) -> str | None:
    """What is wrong with how a graph ended; None if it ran, or somebody said why not."""
    try:
        comfy.run(graph)
    except PromptFailed as failure:
        is_ours = (failure.node_type or "").startswith(OURS)
        in_a_sentence = failure.exception_type.endswith("FlexEditError")
        was_refused = not failure.traceback
        if "inner_validation" in failure.exception_type and not (
            NO_OUTPUT.search(failure.message) or has_wire_from_nowhere(graph)
        ):
            return str(failure)
        if is_ours and not (in_a_sentence or was_refused):
            return str(failure)
        if in_a_sentence and ("\n" in failure.message or len(failure.message) > 1000):
            return f"That is no short sentence: {failure}"
    except requests.HTTPError:  # ComfyUI's own: what it cannot read as a prompt
        return None
    return None


def check(comfy, model: str, draw: Any) -> None:
    size = draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    graph = whole_road(
        comfy, model, size, draw(st.sampled_from((1, 3, 4))), draw(st.integers(1, 3))
    )
    spoil(graph, draw)
    assert (wrong := complaint(comfy, graph)) is None, wrong
    good = Graph()
    good.save_mask(free_shape(good, x=draw(st.floats(0.2, 0.8))))
    assert comfy.run(good)
    comfy.post("history", json={"clear": True})


def fuzz(comfy, model: str, count: int, derandomize: bool) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        derandomize=derandomize,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def every(data: Any) -> None:
        check(comfy, model, data.draw)

    every()


def test_a_hundred_odd_graphs_run_or_say_why_not(comfy, model):
    fuzz(comfy, model, 100, derandomize=True)


@pytest.mark.soak
def test_two_thousand_odd_graphs_run_or_say_why_not(comfy, model):
    fuzz(comfy, model, 2000, derandomize=False)
