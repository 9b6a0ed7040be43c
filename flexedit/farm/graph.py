"""A ComfyUI graph in API format whose inputs a list fills in, edit by edit.

A slot is what a list calls an input: "scene" is that of the node titled Scene, "Edit.steps" the
input ``steps`` of the node titled Edit, and "instruction" also the only input of that name.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from typing import Any

from ..data.record import Record
from ..errors import FlexEditError
from ..files import line_of, read_json, read_records
from ..jobs import GIVEN, RESULTS, check_inputs, check_outs, content, usual_name
from ..validation import validated
from .client import NodeInfo

Input = tuple[str, str]  # node id, input name
Value = str | int | float | bool

# what a list may say of an edit and no graph is given
IGNORED = {it.name for it in fields(Record)} - set(GIVEN)
PICTURES = ("scene", "mask", "subject")
# what holds the value in a node that is titled after a slot, if no input has the slot's own name
HOLDERS = ("image", "value", "text", "string", "noise_seed")


class Graph:
    """nodes: by id, as *File → Export (API)* writes them"""

    def __init__(self, nodes: Mapping[str, Any], where: str) -> None:
        if "nodes" in nodes and "links" in nodes:
            raise FlexEditError(
                f"{where} is a workflow as the page saves it. Export it with File → Export (API)."
            )
        self.nodes: dict[str, dict[str, Any]] = {}
        for key, node in validated(dict[str, dict[str, Any]], nodes, where).items():
            if not isinstance(node.get("class_type"), str):
                raise FlexEditError(f"{where}: node {key} has no class_type.")
            if not isinstance(node.get("inputs", {}), dict):
                raise FlexEditError(f"{where}: the inputs of node {key} are no object.")
            self.nodes[key] = {"inputs": {}, **node}
        self.where = where
        for key, name, source in self.links():
            if source not in self.nodes:
                raise FlexEditError(f"{where}: {self.title(key)}.{name} comes from no node.")

    @classmethod
    def read(cls, file: Path) -> Graph:
        nodes = read_json(file)
        if not isinstance(nodes, dict) or not nodes:
            raise FlexEditError(f"{file} has no graph: it needs nodes by their ids.")
        return cls(nodes, file.name)

    def title(self, key: str) -> str:
        meta = self.nodes[key].get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        return title if isinstance(title, str) else self.nodes[key]["class_type"]

    def links(self) -> Iterator[tuple[str, str, str]]:
        """Node id, input, id of the node that it comes from"""
        for key, node in self.nodes.items():
            for name, value in node["inputs"].items():
                if is_link(value):
                    yield key, name, value[0]

    def slot(self, name: str) -> Input:
        """Raises FlexEditError if no input is meant, or if several are."""
        titled = self._titled(name)
        if len(titled) > 1:
            raise self._unclear(name, f"{len(titled)} nodes have that title")
        if titled:
            inputs = self._free(titled[0])
            for holder in (name, *HOLDERS):
                if holder in inputs:
                    return titled[0], holder
            raise self._unclear(name, f"that node can be given {', '.join(inputs) or 'nothing'}")
        title, dot, last = name.rpartition(".")
        if dot and (titled := self._titled(title)):
            if len(titled) > 1:
                raise self._unclear(name, f"{len(titled)} nodes are titled {title}")
            if last not in self._free(titled[0]):
                inputs = self._free(titled[0])
                raise self._unclear(name, f"{title} has {', '.join(inputs) or 'nothing to give'}")
            return titled[0], last
        same = [(key, name) for key in self.nodes if name in self._free(key)]
        if len(same) > 1:
            choices = " or ".join(f"{self.title(key)}.{name}" for key, _ in same)
            raise self._unclear(name, f"it may be {choices}: write which in the list")
        if same:
            return same[0]
        there = dict.fromkeys(map(self.title, self.nodes))
        if not dot:
            titles = ", ".join(there)
            raise self._unclear(name, f"title a node {name.capitalize()}; there are {titles}")
        if near := [key for key in self.nodes if last in self._free(key)]:
            there = dict.fromkeys(f"{self.title(key)}.{last}" for key in near)
        raise self._unclear(name, f"no node is titled {title}; there are {', '.join(there)}")

    def _titled(self, title: str) -> list[str]:
        wanted = title.strip().casefold()
        return [key for key in self.nodes if self.title(key).strip().casefold() == wanted]

    def _free(self, key: str) -> list[str]:
        return [name for name, value in self.nodes[key]["inputs"].items() if not is_link(value)]

    def _unclear(self, name: str, why: str) -> FlexEditError:
        return FlexEditError(f"{self.where}: where {name!r} goes is not clear; {why}.")

    def filled(self, values: Mapping[Input, Value]) -> dict[str, Any]:
        """The graph to be sent"""
        nodes = copy.deepcopy(self.nodes)
        for (key, name), value in values.items():
            nodes[key]["inputs"][name] = value
        return nodes


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


@dataclass(frozen=True)
class GraphJob:
    """One edit: its values by input, of which ``files`` are paths of what a server is given."""

    out: str
    given: Mapping[str, Value]  # by slot, as the list has it
    values: Mapping[Input, Value]
    files: Mapping[Input, Path]

    def asked(self, graph: str) -> dict[str, Any]:
        """What a line of the journal says about it; ``graph`` is the graph's fingerprint."""
        contents = {str(self.values[slot]): content(path) for slot, path in self.files.items()}
        return {
            "out": self.out,
            "given": dict(self.given),
            "contents": contents,
            "settings": {"graph": graph},
        }


def read_graph_jobs(
    file: Path,
    out: Path,
    graph: Graph,
    uploads: Sequence[Input] = (),
    within: Path | None = None,
) -> list[GraphJob]:
    """uploads: the graph's inputs that name an uploaded file, besides scene, mask and subject.

    Raises FlexEditError as `jobs.read_jobs` does, and for values that the graph has no place for.
    """
    jobs: dict[str, GraphJob] = {}
    slots: dict[str, Input] = {}
    for number, (line, row) in enumerate(read_records(dict[str, Any], file).items(), 1):
        where = line_of(file, line)
        row = {slot: value for slot, value in row.items() if slot not in IGNORED}
        for slot in PICTURES:
            if row.get(slot) in ("", []):  # none, in a list for the library's own pipeline
                del row[slot]
        name = row.pop("out", "") or usual_name(number, str(row.get("scene", "")))
        values: dict[Input, Value] = {}
        files: dict[Input, Path] = {}
        for slot, value in row.items():
            try:
                goes = slots[slot] = slots.get(slot) or graph.slot(slot)
            except FlexEditError as error:
                raise FlexEditError(f"{where}: {error}") from error
            if goes in values:
                raise FlexEditError(f"{where}: {slot!r} goes where another value goes too.")
            values[goes] = plain(value, f"{where}: {slot}")
            if slot in PICTURES or goes in uploads:
                if not isinstance(value, str):
                    raise FlexEditError(f"{where}: {slot} is {value!r}; give a file's path.")
                files[goes] = file.parent / value
        if not isinstance(name, str):
            raise FlexEditError(f"{where}: out is {name!r}; give the name of a picture.")
        jobs[where] = GraphJob(name, {s: values[slots[s]] for s in row}, values, files)
    wanted = {slot for slot in PICTURES for job in jobs.values() if slot in job.given}
    for where, job in jobs.items():
        if missing := sorted(wanted - job.given.keys()):
            raise FlexEditError(f"{where}: {missing[0]} is missing, which other lines give.")
    outs = {where: job.out for where, job in jobs.items()}
    read = {where: list(job.files.values()) for where, job in jobs.items()}
    check_outs(outs, read, out)
    if within is not None:
        names = {where: [str(job.values[it]) for it in job.files] for where, job in jobs.items()}
        check_inputs(names, file.parent, within)
    # a server decides on the ending
    inputs = {stem_of(path): path for paths in read.values() for path in paths}
    stems = {Path(RESULTS).stem: "the journal"}
    for where, name in outs.items():
        stem = Path(name).stem.casefold()
        if stem in stems:
            raise FlexEditError(f"{where}: out is {name!r}; {stems[stem]} writes that name too.")
        stems[stem] = where
        if path := inputs.get(stem_of(out / name)):
            raise FlexEditError(
                f"{where}: out is {name!r}, which may overwrite {path}: a server decides on the "
                "ending. Name another picture, or another --out."
            )
    return list(jobs.values())


def stem_of(path: Path) -> str:
    """A place without its ending, the same for whatever some system takes for the same"""
    return os.path.realpath(os.path.splitext(path)[0]).casefold()


def plain(value: Any, where: str) -> Value:
    """A drawing of strokes may be written as the object that it is."""
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list) and len(value) == 1:  # a list of one subject
        value = value[0]
    is_number = isinstance(value, int | float) and abs(value) < inf  # and no NaN
    if not (isinstance(value, str) or is_number):
        raise FlexEditError(f"{where} is {value!r}; give a text, a number, true or false.")
    return value


# What a server says about the nodes


def uploads(graph: Graph, info: Mapping[str, NodeInfo]) -> list[Input]:
    """The inputs that name a file of the server's input folder."""
    return [
        (key, name)
        for key, node in graph.nodes.items()
        if node["class_type"] in info
        for name, kind in info[node["class_type"]].specs().items()
        if len(kind) > 1 and isinstance(kind[1], dict)
        if any(option.endswith("_upload") and chosen for option, chosen in kind[1].items())
    ]


def complaints(graph: Graph, info: Mapping[str, NodeInfo], filled: Sequence[Input]) -> list[str]:
    """What a server with these nodes would not take. filled: what the list fills in"""
    if missing := sorted({node["class_type"] for node in graph.nodes.values()} - info.keys()):
        return [f"it has no node {', '.join(missing)}: install the pack that has it"]
    said = []
    if not any(info[node["class_type"]].output_node for node in graph.nodes.values()):
        said.append("the graph saves nothing: it needs a node like Save Image")
    files = uploads(graph, info)
    for key, node in graph.nodes.items():
        there, given = info[node["class_type"]], node["inputs"]
        known = there.specs()
        for name in there.specs("required"):
            if name not in given and "." not in name:
                said.append(f"{graph.title(key)} lacks its input {name}")
        for name, value in given.items():
            if (key, name) in (*files, *filled) or is_link(value):
                continue
            if may := allowed(value, known.get(name, [])):
                said.append(f"{graph.title(key)}.{name} is {value!r}; there it may be {may}")
    return said


def refusals(graph: Graph, info: Mapping[str, NodeInfo], jobs: Sequence[GraphJob]) -> list[str]:
    """What a server with these nodes would not take of a list's values."""
    kinds = {key: info[node["class_type"]].specs() for key, node in graph.nodes.items()}
    said = []
    for job in jobs:
        for (key, name), value in job.values.items():
            may = allowed(value, kinds[key].get(name, []))
            if may and (key, name) not in job.files:
                said.append(f"{job.out}: {graph.title(key)}.{name} is {value!r}; it may be {may}")
    return said


def allowed(value: Value, kind: Sequence[Any]) -> str:
    """What an input of this kind takes instead of ``value``, "" if it takes that."""
    options = choices(kind)
    if options and value not in options:
        return f"{', '.join(map(str, options[:5]))} …"
    limits = kind[1] if len(kind) > 1 and isinstance(kind[1], dict) else {}
    low, high = limits.get("min", -inf), limits.get("max", inf)
    numbers = all(isinstance(number, int | float) for number in (low, value, high))
    if numbers and not low <= value <= high:
        return f"{low} to {high}"
    return ""


def choices(kind: Sequence[Any]) -> list[Any]:
    if kind and isinstance(kind[0], list):
        return kind[0]
    if len(kind) > 1 and kind[0] == "COMBO" and isinstance(kind[1], dict):
        options = kind[1].get("options")
        return options if isinstance(options, list) else []
    return []


def differing(
    graph: Graph, one: Mapping[str, NodeInfo], other: Mapping[str, NodeInfo]
) -> list[str]:
    """The nodes of the graph that two servers describe with other inputs: other versions."""

    def shape(info: Mapping[str, NodeInfo], name: str) -> dict[str, str]:
        known = info.get(name, NodeInfo()).specs()
        return {it: kind[0] if isinstance(kind[0], str) else "COMBO" for it, kind in known.items()}

    names = sorted({node["class_type"] for node in graph.nodes.values()})
    return [name for name in names if shape(one, name) != shape(other, name)]
