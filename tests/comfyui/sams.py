"""A Segment Anything model in ComfyUI's care, for test_resolve.py."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import inside

pack = inside.enter()

import folder_paths  # noqa: E402
import torch  # noqa: E402
from comfy import model_management  # noqa: E402
from flexedit_pack.flexedit.resolve import resolver  # noqa: E402
from flexedit_pack.nodes.resolve import ResolveMask  # noqa: E402
from flexedit_pack.nodes.runtime import folders  # noqa: E402
from flexedit_pack.nodes.sam_loader import SAMLoader  # noqa: E402

MENDING = {"fill_holes": True, "min_area": 64, "grow": 0, "feather": 0}


def resolve(sam: Any, method: str = "sam") -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scene, mask = torch.rand(1, 32, 48, 3, generator=generator), torch.ones(1, 32, 48)
    return ResolveMask.execute(scene, mask, method, 1, sam, **MENDING).args[0]


def names(root: str) -> dict[str, Any]:
    """What is listed, with a place of other packs that was there before."""
    folder_paths.folder_names_and_paths["sams"] = (["/elsewhere"], {".pth"})
    folders.register()
    before = SAMLoader.define_schema().inputs[0].options
    folder_paths.add_model_folder_path("sams", root)
    paths, extensions = folder_paths.folder_names_and_paths["sams"]
    return {
        "names": list(folders.sam_folders()),
        "paths": paths,
        "extensions": sorted(extensions),
        "default": folder_paths.models_dir,
        "before": before,
    }


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
    gc.collect()
    model_management.cleanup_models_gc()
    return figures | {"kept": module() is not None, "loaded in the end": len(models())}


def models() -> list[Any]:
    return [one for one in model_management.current_loaded_models if one.model is not None]


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
        "names": names(root),
        "sam": life("tiny-sam"),
        "sam2": life("maker/tiny-sam2"),
        "cancelled": cancelled(),
    }


if __name__ == "__main__":
    inside.main({"everything": everything}, sys.argv[1:])
