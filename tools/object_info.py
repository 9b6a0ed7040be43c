"""What saved graphs and scripts rely on in our nodes: ids, inputs and outputs, as ComfyUI tells
them at /object_info and as ``object_info.json`` remembers them.

python -m tools.object_info                records what was added
python -m tools.object_info --breaking     also what was changed or removed
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tools.comfyui.fetch import PACK
from tools.comfyui.server import ComfyServer
from tools.workflows import WIDGETS

FILE = PACK / "tests" / "comfyui" / "object_info.json"
SETTINGS = ("default", "max", "min", "options", "step")  # not words: those may be mended
FROM_ELSEWHERE = {"model", "sampler_name", "scheduler"}  # options that folders or ComfyUI give
GROUPS = ("required", "optional")

Contract = dict[str, Any]


def recorded() -> Contract:
    return json.loads(FILE.read_text(encoding="utf-8"))


def contract(object_info: Mapping[str, Any]) -> Contract:
    """Of each of our nodes: inputs by group and outputs, both in their order."""
    return {
        node_id: {
            **{group: _inputs(info["input"].get(group, {})) for group in GROUPS},
            "outputs": [
                {"name": name, "type": kind}
                for name, kind in zip(info["output_name"], info["output"], strict=True)
            ],
        }
        for node_id, info in sorted(object_info.items())
        if node_id.startswith("FlexEdit")
    }


def _inputs(specs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_input(name, *spec) for name, spec in specs.items()]


def _input(name: str, kind: Any, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    settings = dict(settings or {})
    if isinstance(kind, list):  # a combo, as older ComfyUIs tell it
        kind, settings["options"] = "COMBO", kind
    kept = {key: settings[key] for key in SETTINGS if key in settings}
    if name in FROM_ELSEWHERE:
        kept.pop("options", None)
    return {"name": name, "type": kind} | kept


def breaks(old: Contract, new: Contract) -> list[str]:
    """What graphs that were saved with ``old`` would not find any more in ``new``."""
    return [found for node_id in old for found in _node_breaks(node_id, old, new.get(node_id))]


def _node_breaks(node_id: str, old: Contract, new: Contract | None) -> Iterator[str]:
    if new is None:
        yield f"{node_id} is gone. Node ids never change: bring it back."
        return
    for group in (*GROUPS, "outputs"):
        before, after = old[node_id][group], new[group]
        names, now = ([one["name"] for one in group] for group in (before, after))
        ordered, order = names, now
        if group != "outputs":  # connections go by their names
            ordered, order = (
                [one["name"] for one in them if one["type"] in WIDGETS] for them in (before, after)
            )
        where = f"{node_id}, {group}"
        if gone := [name for name in names if name not in now]:
            yield f"{where}: {', '.join(gone)} is gone. Bring it back; it may do nothing."
        elif order[: len(ordered)] != ordered:
            yield (
                f"{where}: the order was {', '.join(ordered)} and is {', '.join(order)}. Saved "
                "widget values and outputs go by position: restore it, put what is new at the end."
            )
        elif group == "required" and len(now) > len(names):
            added = ", ".join(name for name in now if name not in names)
            yield (
                f"{where}: {added} is new, but saved graphs lack it. Make it optional, with a "
                "default that does what was done without it."
            )
        for one in before:
            for other in after:
                if one["name"] == other["name"]:
                    yield from _changes(f"{where}: {one['name']}", one, other)


def _changes(where: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if key == "options":
            if gone := [option for option in before or () if option not in (after or ())]:
                yield f"{where}: the option {', '.join(map(str, gone))} is gone. Bring it back."
        elif before != after:
            yield f"{where}: {key} was {before!r} and is {after!r}. Restore it."


def write(found: Contract) -> None:
    """An input or output a line"""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    text = re.sub(r"{[^{}]*}", lambda one: " ".join(one[0].split()), text)
    FILE.write_text(text + "\n", encoding="utf-8")


def main(*arguments: str) -> None:
    with ComfyServer() as comfy:
        found = contract(comfy.object_info())
    if FILE.exists() and "--breaking" not in arguments and (broken := breaks(recorded(), found)):
        sys.exit("\n".join([*broken, f"Nothing was written to {FILE.name}."]))
    write(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
