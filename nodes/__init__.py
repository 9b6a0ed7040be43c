"""What a person sees in ComfyUI: one node per stage, each a schema and a short execute."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from comfy_api.latest import ComfyExtension, io

from ..flexedit import __version__, packages

log = logging.getLogger(__name__)

NODES = {  # a file and its class, in the order of ComfyUI's list
    "loader": "Loader",
    "vllm_loader": "VLLMLoader",
    "sam_loader": "SAMLoader",
    "freeshape": "FreeShapeMask",
    "interpreter": "MaskInterpreter",
    "expressive": "ExpressiveInstruction",
    "qformer": "QFormerEmbed",
    "mea": "MEAConditioning",
    "sampler": "KSampler",
    "painted": "ReadPaintedMask",
    "resolve": "ResolveMask",
    "crop": "Crop",
    "composite": "Composite",
}

SERVED = re.compile(r"[\w.~!$&'()*+,;=:@-]+", re.ASCII)  # what an address holds as it is


class FlexEditExtension(ComfyExtension):
    """The node pack; nothing is imported before ComfyUI asks for the nodes.

    A node that cannot be imported here, or cannot say what its inputs are, leaves the others alone.
    """

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        log.info("FlexEdit %s: %s", __version__, packages.summary())
        for complaint in packages.complaints():
            log.warning("FlexEdit: %s", complaint)
        folder = Path(__file__).parents[1].name
        if not SERVED.fullmatch(folder):
            log.warning(
                "FlexEdit: drawing on a node will not work, as ComfyUI cannot serve scripts from a "
                "folder of the name %r. Rename it to flexedit, and start ComfyUI again.",
                folder,
            )
        attempt("its model folders", lambda: import_module(".runtime.folders", __name__).register())
        nodes = [attempt(f"the node {name}", find_node, file, name) for file, name in NODES.items()]
        return [node for node in nodes if node is not None]


def find_node(file: str, name: str) -> type[io.ComfyNode]:
    node = getattr(import_module(f".{file}", __name__), name)
    node.define_schema()
    return node


def attempt(what: str, do: Callable[..., Any], *arguments: str) -> Any:
    """What ``do`` returns; None, and a line in the log, if it fails."""
    try:
        return do(*arguments)
    except Exception as error:
        why = packages.explain(error) if packages.is_failed_import(error) else error
        log.error("FlexEdit starts without %s. %s: %s", what, type(error).__name__, why)
        log.debug("Why", exc_info=True)
        return None
