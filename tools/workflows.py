"""The workflows we ship: as the page saves them, and below api/ as the API takes them; and the
subgraph blueprints, each one node that the page offers.

The page shows a template by the name of its file, so a number in front of it says where it stands.

python -m tools.workflows      writes the API twin of every workflow anew
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.comfyui.fetch import PACK
from tools.comfyui.server import ComfyServer, Prompt

WORKFLOWS = PACK / "workflows"
TEMPLATES = {path.stem.lstrip("0123456789_"): path for path in sorted(WORKFLOWS.glob("*.json"))}
NAMES = list(TEMPLATES)
BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"Note", "MarkdownNote"}  # live in the page only
INPUTS, OUTPUTS = -10, -20  # what a subgraph calls its own ends


def browser_workflow(name: str) -> dict[str, Any]:
    return json.loads(TEMPLATES[name].read_text(encoding="utf-8"))


def api_workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def drawing(points: Iterable[tuple[float, float]], width: float = 0.06) -> str:
    """What a Free-Shape Mask keeps of a stroke of the brush."""
    stroke = {"tool": "brush", "width": width, "points": list(points)}
    return json.dumps({"version": 1, "strokes": [stroke]})


def to_api(
    workflow: Mapping[str, Any],
    object_info: Mapping[str, Any],
    outside: Mapping[int, list | None] | None = None,
) -> Prompt:
    """What the page sends when a person queues this workflow.

    `outside` has what the inputs of a blueprint's subgraph are connected to, by their number; a
    widget of which nothing is said there keeps its value.
    """
    sources = {key: [str(origin), slot] for key, origin, slot, *_ in workflow["links"]}
    for key, origin, slot, *_ in workflow["links"]:
        if origin == INPUTS:
            sources[key] = (outside or {}).get(slot)
    return {
        str(node["id"]): _to_api(node, object_info[node["type"]], sources)
        for node in nodes(workflow)
    }


def subgraph(blueprint: Path) -> dict[str, Any]:
    """What is inside of a blueprint, its links written as those of a workflow."""
    (found,) = json.loads(blueprint.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    ends = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return found | {"links": [[link[end] for end in ends] for link in found["links"]]}


def nodes(workflow: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (node for node in workflow["nodes"] if node["type"] not in NOTES)


def node_of(prompt: Prompt, class_type: str) -> str:
    """The id of the first node of a kind."""
    return next(key for key, node in prompt.items() if node["class_type"] == class_type)


def _to_api(
    node: Mapping[str, Any], info: Mapping[str, Any], sources: Mapping[int, list | None]
) -> dict[str, Any]:
    slots = {slot["name"]: slot["link"] for slot in node["inputs"]}
    values = iter(node["widgets_values"])
    inputs = {}
    for name, spec in input_specs(info):
        if is_widget(spec) and (name in slots or name in info["input"].get("required", {})):
            options = spec[1] if len(spec) > 1 else {}
            inputs[name] = next(values, options.get("default"))  # a graph older than the widget
            if has_control(name, spec):
                next(values)
            if options.get("image_upload"):
                next(values)
        if slots.get(name) is not None and sources[slots[name]] is not None:
            inputs[name] = sources[slots[name]]
    assert not list(values), f"{node['type']} has more widget values than widgets"
    title = node.get("title", node["type"])
    return {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}


def input_specs(info: Mapping[str, Any]) -> list[tuple[str, list]]:
    """(input id, [type, options]) in the order of the node."""
    groups = (info["input"].get(group, {}) for group in ("required", "optional"))
    return [item for group in groups for item in group.items()]


def is_widget(spec: list) -> bool:
    return isinstance(spec[0], list) or spec[0] in WIDGETS


def has_control(name: str, spec: list) -> bool:
    """Whether the page adds a "control after generate" widget behind this one."""
    seed = name in ("seed", "noise_seed")
    return spec[0] == "INT" and (seed or bool(spec[1].get("control_after_generate")))


def main() -> None:
    with ComfyServer() as comfy:
        object_info = comfy.object_info()
    (WORKFLOWS / "api").mkdir(exist_ok=True)
    for name in NAMES:
        prompt = to_api(browser_workflow(name), object_info)
        text = json.dumps(prompt, indent=2, ensure_ascii=False) + "\n"
        (WORKFLOWS / "api" / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
