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
        from .resolve import ResolveMask
        from .runtime import folders
        from .sam_loader import SAMLoader
        from .sampler import KSampler
        from .vllm_loader import VLLMLoader

        folders.register()
        return [
            Loader,
            VLLMLoader,
            SAMLoader,
            FreeShapeMask,
            MaskInterpreter,
            QFormerEmbed,
            MEAConditioning,
            KSampler,
            ReadPaintedMask,
            ResolveMask,
            Crop,
            Composite,
        ]
