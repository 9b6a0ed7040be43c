"""FlexEdit for ComfyUI: the nodes are in nodes/; the library in flexedit/ needs no ComfyUI."""

from .nodes import FlexEditExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> FlexEditExtension:
    return FlexEditExtension()
