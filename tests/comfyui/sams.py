"""A Segment Anything model in ComfyUI's care, for test_resolve.py."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import inside
from care import folders, in_the_end, model_management, models, names

# isort: split
import torch
from flexedit_pack.flexedit.resolve import resolver
from flexedit_pack.nodes.resolve import ResolveMask
from flexedit_pack.nodes.sam_loader import SAMLoader

MENDING = {"fill_holes": True, "min_area": 64, "grow": 0, "feather": 0}


def resolve(sam: Any, method: str = "sam") -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scene, mask = torch.rand(1, 32, 48, 3, generator=generator), torch.ones(1, 32, 48)
    return ResolveMask.execute(scene, mask, method, 1, sam, **MENDING).args[0]


def life(name: str) -> dict[str, Any]:
    """A model from the node that opens it until nothing holds it."""
    (sam,) = SAMLoader.execute(name, "fp32").args
    figures: dict[str, Any] = {"bytes before use": sam.get_ram_usage()}
    resolve(sam, "classic")
    figures["bytes after classic"] = sam.get_ram_usage()
    mask = resolve(sam)
    module = weakref.ref(sam.read().model)
    figures |= {
        "bytes": sam.get_ram_usage(),
        "loaded": [type(one.model.model).__name__ for one in models()],
        "same mask again": torch.equal(resolve(sam), mask),
        "same module again": sam.read().model is module(),
    }
    del sam
    return figures | in_the_end(module)


def cancelled() -> dict[str, bool]:
    """A batch that is cancelled while its first picture is resolved, and how far it came."""
    seen = []
    ask = resolver.classic.resolve

    def interrupt(*arguments: Any) -> Any:
        seen.append(1)
        model_management.interrupt_current_processing(True)
        return ask(*arguments)

    resolver.classic.resolve = interrupt
    try:
        scenes, mask = torch.rand(3, 32, 48, 3), torch.ones(1, 32, 48)
        ResolveMask.execute(scenes, mask, "classic", 1, **MENDING)
    except model_management.InterruptProcessingException:
        return {"raised": True, "after one": len(seen) == 1}
    finally:
        resolver.classic.resolve = ask
    return {"raised": False}


def everything(root: str) -> dict[str, Any]:
    return {
        "names": names("sams", ".pth", SAMLoader, folders.sam_folders, root),
        "sam": life("tiny-sam"),
        "sam2": life("maker/tiny-sam2"),
        "cancelled": cancelled(),
    }


if __name__ == "__main__":
    inside.main({"everything": everything}, sys.argv[1:])
