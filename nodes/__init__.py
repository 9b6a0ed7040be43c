"""What a person sees in ComfyUI: one node per stage, each a schema and a short execute."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class FlexEditExtension(ComfyExtension):
    """The node pack; nothing is imported before ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .composite import Composite
        from .crop import Crop
        from .freeshape import FreeShapeMask
        from .interpreter import MaskInterpreter
        from .loader import Loader
        from .mea import MEAConditioning
        from .painted import ReadPaintedMask
        from .qformer import QFormerEmbed
        from .runtime import folders
        from .sampler import KSampler
        from .vllm_loader import VLLMLoader

        folders.register()
        return [
            Loader,
            VLLMLoader,
            FreeShapeMask,
            MaskInterpreter,
            QFormerEmbed,
            MEAConditioning,
            KSampler,
            ReadPaintedMask,
            Crop,
            Composite,
        ]
