"""The workflows we ship: as the page saves them, and below api/ as the API takes them.

python -m tests.comfyui.workflows      writes the API twin of every workflow anew
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.comfyui.fetch import PACK
from tests.comfyui.server import ComfyServer, Prompt

WORKFLOWS = PACK / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"Note", "MarkdownNote"}  # live in the page only


def browser_workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def api_workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def to_api(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """What the page sends when a person queues this workflow."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    return {
        str(node["id"]): _to_api(node, object_info[node["type"]], sources)
        for node in nodes(workflow)
    }


def nodes(workflow: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (node for node in workflow["nodes"] if node["type"] not in NOTES)


def _to_api(
    node: Mapping[str, Any], info: Mapping[str, Any], sources: Mapping[int, list]
) -> dict[str, Any]:
    slots = {slot["name"]: slot["link"] for slot in node["inputs"]}
    values = iter(node["widgets_values"])
    inputs = {}
    for name, spec in input_specs(info):
        if is_widget(spec):
            inputs[name] = next(values, spec[1].get("default"))  # a graph older than the widget
            if has_control(name, spec):
                next(values)
            if len(spec) > 1 and spec[1].get("image_upload"):
                next(values)
        if slots.get(name) is not None:
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
