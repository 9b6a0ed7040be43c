"""``flexedit.json``, of today's format or an older one → a SystemConfig."""

from __future__ import annotations

import json
from typing import Any

from ..errors import FlexEditError
from ..models.config import FORMAT, SystemConfig
from ..validation import validated


def system_config(text: str, where: str = "flexedit.json") -> SystemConfig:
    """Raises FlexEditError for a file that is not JSON, is newer, or describes no system."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FlexEditError(
            f"{where} is not valid JSON ({error}). Download or export the model again."
        ) from error
    if isinstance(data, dict):
        found = data.get("format", 1)
        if found == 1:
            data = upgrade(data, where)
        elif found != FORMAT:
            raise FlexEditError(
                f"{where} has format {found!r}; this version reads formats 1 and {FORMAT}. "
                "Update FlexEdit, or export the model again."
            )
    return validated(SystemConfig, data, where)


def upgrade(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Format 1, which named LLaVA's, the Q-Former's and the MEA's settings side by side."""
    data = dict(data)
    needed = {"qformer": ("num_edit_tokens", "mea", "qformer", "lora"), "text": ("mea", "text")}
    kind = data.pop("bridge", None)
    if not isinstance(kind, str) or kind not in needed:
        raise FlexEditError(f"{where}: bridge is {kind!r}; choose one of {', '.join(needed)}.")
    for name in needed[kind]:
        if not isinstance(data.get(name), int if name == "num_edit_tokens" else dict):
            raise FlexEditError(f"{where}: {name} is {data.get(name)!r}; a {kind} bridge needs it.")
    sections = {name: data.pop(name, None) for name in ("mea", "qformer", "text", "lora")}
    num_edit_tokens, state = data.pop("num_edit_tokens", 0), data.pop("hidden_state", "at")
    data.pop("interaction", None)
    if kind == "qformer":
        vllm = {"num_edit_tokens": num_edit_tokens, "hidden_state": state, "lora": sections["lora"]}
        data["vllm"] = {"type": "llava", **vllm}
        data["bridge"] = {"type": "qformer", **renamed(sections["qformer"], "num_queries")}
    else:
        data["bridge"] = {"type": "clip_text", **renamed(sections["text"], "num_tokens")}
    mea = sections["mea"]
    reads_pictures = mea.get("cross_attention", True) or mea.get("subject", True)
    data["adapter"] = {"type": "mea", **mea} if reads_pictures else None
    return data | {"format": FORMAT}


def renamed(section: dict[str, Any], name: str) -> dict[str, Any]:
    """A bridge's section, where the number of edit embeddings had another name."""
    return {"num_embeddings" if key == name else key: value for key, value in section.items()}
