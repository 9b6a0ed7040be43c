# ruff: noqa: E402
"""Stock models in ComfyUI's care, for test_stock_models.py."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inside

inside.enter()

# isort: split
import folder_paths
import torch
from comfy import model_management
from flexedit_pack.flexedit.resolve import resolver
from flexedit_pack.nodes.interpreter import MaskInterpreter
from flexedit_pack.nodes.resolve import ResolveMask
from flexedit_pack.nodes.runtime import folders
from flexedit_pack.nodes.sam_loader import SAMLoader
from flexedit_pack.nodes.vllm_loader import VLLMLoader

MENDING = {"fill_holes": True, "min_area": 64, "grow": 0, "feather": 0}
LOADERS = {  # by their folder of models: another pack's files there, our loader and what it lists
    "LLM": (".gguf", VLLMLoader, folders.vllm_folders),
    "sams": (".pth", SAMLoader, folders.sam_folders),
}


def names(root: str, kind: str) -> dict[str, Any]:
    """What is listed of a kind of models, with a place of other packs that was there before."""
    extension, loader, ours = LOADERS[kind]
    folder_paths.folder_names_and_paths[kind] = (["/elsewhere"], {extension})
    folders.register()
    before = loader.define_schema().inputs[0].options
    folder_paths.add_model_folder_path(kind, str(Path(root, kind)))
    paths, extensions = folder_paths.folder_names_and_paths[kind]
    return {
        "names": list(ours()),
        "paths": paths,
        "extensions": list(extensions) == [extension],
        "default": folder_paths.models_dir,
        "before": before,
    }


def interpret(vllm: Any) -> tuple[str, str]:
    """→ reply and label"""
    scene, mask = torch.rand(1, 32, 48, 3), torch.ones(1, 32, 48)
    request = {"instruction": "remove this", "task": "edit", "reply": "direct", "mask": mask}
    _, reply, label, marked = MaskInterpreter.execute(vllm, scene, **request).args
    assert marked.shape == scene.shape
    return reply, label


def resolve(sam: Any, method: str = "sam") -> list[float]:
    """→ the mask"""
    generator = torch.Generator().manual_seed(0)
    scene, mask = torch.rand(1, 32, 48, 3, generator=generator), torch.ones(1, 32, 48)
    return ResolveMask.execute(scene, mask, method, 1, sam, **MENDING).args[0].flatten().tolist()


def life(
    loader: Any, name: str, use: Callable[[Any], object], other_use: Callable[[Any], object]
) -> dict[str, Any]:
    """A model from the node that opens it until nothing holds it; `other_use` does not need it."""
    (part,) = loader.execute(name, "auto").args
    other_use(part)
    figures: dict[str, Any] = {
        "bytes before use": part.get_ram_usage(),
        "patcher before use": repr(getattr(part, "patcher", None)),
    }
    used = use(part)
    module = weakref.ref(part.read().model)
    figures |= {
        "bytes": part.get_ram_usage(),
        "loaded": [type(one.model.model).__name__ for one in models()],
        "same again": use(part) == used,
        "same module again": part.read().model is module(),
    }
    del part
    gc.collect()
    model_management.cleanup_models_gc()
    return figures | {"kept": module() is not None, "loaded in the end": len(models())}


def models() -> list[Any]:
    return [one for one in model_management.current_loaded_models if one.model is not None]


def cancelled_reading(name: str) -> dict[str, Any]:
    """A reading that is cancelled before its first token, and the one after it."""
    (vllm,) = VLLMLoader.execute(name, "auto").args
    model_management.interrupt_current_processing(True)
    try:
        interpret(vllm)
    except model_management.InterruptProcessingException:
        return {"raised": True, "label": interpret(vllm)[1]}
    return {"raised": False}


def cancelled_resolving() -> dict[str, bool]:
    """A batch that is cancelled while its first picture is resolved, and how far it came."""
    seen = []
    ask = resolver.classic.resolve

    def interrupt(*arguments: Any, **options: Any) -> Any:
        seen.append(1)
        model_management.interrupt_current_processing(True)
        return ask(*arguments, **options)

    resolver.classic.resolve = interrupt
    try:
        scenes, mask = torch.rand(3, 32, 48, 3), torch.ones(1, 32, 48)
        ResolveMask.execute(scenes, mask, "classic", 1, **MENDING)
    except model_management.InterruptProcessingException:
        return {"raised": True, "after one": len(seen) == 1}
    finally:
        resolver.classic.resolve = ask
    return {"raised": False}


def precisions(name: str, device_has_bf16: bool) -> dict[str, str]:
    """What a model computes in, by the precision chosen."""
    model_management.should_use_bf16 = lambda *_: device_has_bf16
    return {
        chosen: str(VLLMLoader.execute(name, chosen).args[0].dtype)
        for chosen in ("auto", "fp16", "fp32")
    }


def everything(root: str) -> dict[str, Any]:
    listed = {kind: names(root, kind) for kind in LOADERS}
    sams = {
        name: life(SAMLoader, name, resolve, lambda sam: resolve(sam, "classic"))
        for name in ("tiny-sam", "maker/tiny-sam2")
    }
    return {
        "names": listed,
        "life": {"tiny-llava": life(VLLMLoader, "tiny-llava", interpret, id)} | sams,
        "cancelled reading": cancelled_reading("tiny-llava"),
        "cancelled resolving": cancelled_resolving(),
        "bf16 weights": precisions("Qwen/tiny", True),
        "bf16 weights without bf16": precisions("Qwen/tiny", False),
        "other weights": precisions("tiny-llava", True),
    }


if __name__ == "__main__":
    inside.main({"everything": everything}, sys.argv[1:])
