import copy
import json
from pathlib import Path
from typing import Any

import pytest

from flexedit.errors import FlexEditError
from flexedit.farm.client import NodeInfo
from flexedit.farm.graph import (
    Graph,
    complaints,
    differing,
    read_graph_jobs,
    refusals,
    uploads,
)
from tests.farm.servers import GRAPH, INFO, png
from tools.comfyui.fetch import PACK


@pytest.fixture
def graph() -> Graph:
    return Graph(copy.deepcopy(GRAPH), "graph.json")


def write_list(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "a.png").write_bytes(png(0))
    file = folder / "edits.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_slot_is_a_title_a_titled_nodes_input_or_the_only_input_of_its_name(graph):
    assert graph.slot("scene") == ("1", "image")
    assert graph.slot("Edit.steps") == ("2", "steps")
    assert graph.slot("instruction") == ("2", "instruction")
    graph.nodes["4"] = {"class_type": "PrimitiveInt", "inputs": {"value": 1}}
    graph.nodes["4"]["_meta"] = {"title": "Seed"}
    assert graph.slot("seed") == ("4", "value")


@pytest.mark.parametrize(
    ("slot", "complaint"),
    [
        ("mask", "where 'mask' goes is not clear; title a node Mask; there are Scene, Edit, Save"),
        ("Edit.scene", "Edit has instruction, seed, steps"),
        ("nothing.steps", "no node is titled nothing; there are Edit.steps"),
        ("nothing.size", "no node is titled nothing; there are Scene, Edit, Save"),
    ],
)
def test_a_slot_that_the_graph_lacks_is_told_with_what_there_is(slot, complaint, graph):
    with pytest.raises(FlexEditError, match=complaint):
        graph.slot(slot)


def test_two_inputs_of_one_name_are_both_named(graph):
    graph.nodes["4"] = {"class_type": "Noise", "inputs": {"seed": 1}}
    with pytest.raises(FlexEditError, match=r"it may be Edit.seed or Noise.seed: write which"):
        graph.slot("seed")


def test_a_list_fills_a_copy_of_the_graph(graph, tmp_path):
    row = {"scene": "a.png", "instruction": "remove it", "Edit.seed": 7}
    (job,) = read_graph_jobs(write_list(tmp_path, row), tmp_path / "out", graph)
    assert job.out == "000001_a.png" and job.files == {("1", "image"): tmp_path / "a.png"}
    filled = graph.filled(job.values)
    assert filled["2"]["inputs"] == {
        "scene": ["1", 0],
        "instruction": "remove it",
        "seed": 7,
        "steps": 4,
    }
    assert graph.nodes == GRAPH


def test_strokes_may_be_the_drawing_itself(tmp_path):
    shipped = Graph.read(PACK / "workflows" / "api" / "edit_one_picture.json")
    drawing = {"version": 1, "strokes": []}
    row = {"scene": "a.png", "strokes": drawing, "instruction": "go", "Edit.seed": 1}
    (job,) = read_graph_jobs(write_list(tmp_path, row), tmp_path / "out", shipped)
    assert json.loads(job.values[shipped.slot("strokes")]) == drawing


@pytest.mark.parametrize("name", ["edits_from_a_list", "photos_from_a_list"])
def test_a_list_of_the_librarys_own_fits_the_shipped_graphs_for_lists(name, tmp_path):
    shipped = Graph.read(PACK / "workflows" / "api" / f"{name}.json")
    row = {"scene": "a.png", "mask": "a.png", "instruction": "go", "task": "edit", "seed": 3}
    unused = {"subject": "", "target": "t.png", "label": "duck", "out": "x.png"}
    (job,) = read_graph_jobs(write_list(tmp_path, row | unused), tmp_path / "out", shipped)
    assert {shipped.title(key): name for key, name in job.values} == {
        "Scene": "image",
        "Mask": "image",
        "Instruction": "task",
        "Seed": "seed",
    }
    assert dict(job.given) == row and len(job.files) == 2


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"scene": "a.png", "mask": "a.png"}], "line 1: graph.json: where 'mask' goes"),
        ([{"scene": "a.png"}, {"seed": 1}], "line 2: scene is missing, which other lines give"),
        ([{"scene": 3}], "line 1: scene is 3; give a file's path"),
        ([{"seed": [1, 2]}], r"line 1: seed is \[1, 2\]; give a text, a number"),
        ([{"seed": 1, "Edit.seed": 2}], "line 1: 'Edit.seed' goes where another value goes"),
        ([{"seed": 1, "out": "x.jpg"}, {"seed": 2, "out": "x.png"}], "line 1 writes that name"),
        ([{"seed": 1, "out": "results.png"}], "the journal writes that name too"),
        ([{"scene": "a.png", "out": "A.webp"}], "which may overwrite .*a.png: a server decides"),
        ([{"scene": "a\0.png"}], r"line 1: no file can be called '.*a\\x00.png'"),
        ([{"seed": float("nan")}], "line 1: seed is nan; give a text, a number"),
        ([{"seed": -float("inf")}], "line 1: seed is -inf; give a text, a number"),
        ([{"seed": 1, "out": "../x.png"}], "give the name of a picture, no path"),
    ],
)
def test_a_line_that_the_graph_has_no_place_for_is_refused(rows, complaint, graph, tmp_path):
    with pytest.raises(FlexEditError, match=complaint):
        read_graph_jobs(write_list(tmp_path, *rows), tmp_path, graph)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "link/a.png", "C:a.png"])
def test_a_strangers_list_sends_nothing_from_outside_of_the_folder_named(name, graph, tmp_path):
    inside = tmp_path / "pictures"
    inside.mkdir()
    (tmp_path / "a.png").write_bytes(png(0))
    (inside / "link").symlink_to(tmp_path)
    for slot in ("scene", "Scene.image"):
        file = write_list(inside, {slot: "a.png"}, {slot: name})
        with pytest.raises(FlexEditError, match=r"line 2: .* leads out of .*pictures\. Copy"):
            read_graph_jobs(file, tmp_path / "out", graph, [("1", "image")], inside)
        assert len(read_graph_jobs(file, tmp_path / "out", graph, [("1", "image")])) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "has no graph"),
        ("{", "is not valid JSON"),
        ('{"nodes": [], "links": []}', "File → Export"),
        ('{"1": {"inputs": {}}}', "node 1 has no class_type"),
        ('{"1": {"class_type": "A", "inputs": {"x": ["9", 0]}}}', "A.x comes from no node"),
    ],
)
def test_what_is_no_graph_is_refused(text, complaint, tmp_path):
    (tmp_path / "graph.json").write_text(text, encoding="utf-8")
    with pytest.raises(FlexEditError, match=complaint):
        Graph.read(tmp_path / "graph.json")


def test_what_a_server_would_not_take_is_found_in_what_it_says_of_its_nodes(graph):
    def nodes(info: dict[str, Any]) -> dict[str, NodeInfo]:
        return {name: NodeInfo(**node) for name, node in info.items()}

    there = nodes(INFO)
    assert uploads(graph, there) == [("1", "image")] and complaints(graph, there, []) == []
    assert complaints(graph, {name: there[name] for name in ("LoadImage", "SaveImage")}, []) == [
        "it has no node Edit: install the pack that has it"
    ]
    info = copy.deepcopy(INFO)
    info["Edit"]["input"]["required"]["model"] = [["mini", "full"], {}]
    other = nodes(info)
    assert complaints(graph, other, []) == ["Edit lacks its input model"]
    assert differing(graph, there, other) == ["Edit"]
    graph.nodes["2"]["inputs"]["model"] = "mine"
    assert complaints(graph, other, []) == ["Edit.model is 'mine'; there it may be mini, full …"]
    assert complaints(graph, other, [("2", "model")]) == []  # the list says it


def test_values_of_a_list_that_a_node_would_not_take_are_found(graph, tmp_path):
    info = copy.deepcopy(INFO)
    required = info["Edit"]["input"]["required"]
    required |= {"steps": ["INT", {"min": 1, "max": 50}], "model": [["mini", "full"], {}]}
    required["seed"] = ["INT", {"min": None, "max": "many"}]  # which says nothing
    graph.nodes["2"]["inputs"]["model"] = "mini"
    nodes = {name: NodeInfo(**node) for name, node in info.items()}
    rows = [
        {"scene": "a.png", "steps": steps, "model": model, "seed": -1}
        for steps, model in ((1, "full"), (-5, "mini"), (51, "tiny"))
    ]
    jobs = read_graph_jobs(write_list(tmp_path, *rows), tmp_path / "out", graph)
    assert refusals(graph, nodes, jobs) == [
        "000002_a.png: Edit.steps is -5; it may be 1 to 50",
        "000003_a.png: Edit.steps is 51; it may be 1 to 50",
        "000003_a.png: Edit.model is 'tiny'; it may be mini, full …",
    ]
    graph.nodes["2"]["inputs"]["steps"] = 0
    assert complaints(graph, nodes, []) == ["Edit.steps is 0; there it may be 1 to 50"]
