"""Shows a node's picture on the page, where web/drawing/picture.js puts it under the drawing."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import ui
from server import PromptServer
from torch import Tensor


def show(image: Tensor, node_id: str) -> dict[str, list[Any]]:
    """Sends the first of an IMAGE (B, H, W, C) to the page → `ui` for the node's output.

    The message arrives even if the node then fails, the `ui` even if its result was cached.
    """
    (picture,) = ui.PreviewImage(image[:1]).as_dict()["images"]
    server = PromptServer.instance
    if server.client_id is not None:  # somebody looks on
        message = {"node_id": node_id, "picture": picture}
        server.send_sync("flexedit.picture", message, server.client_id)
    return {"flexedit_picture": [picture]}
