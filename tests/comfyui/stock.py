"""A stock VLLM in ComfyUI's care, for test_vllm_loader.py."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import inside
from care import folders, in_the_end, model_management, models, names

# isort: split
import torch
from flexedit_pack.nodes.interpreter import MaskInterpreter
from flexedit_pack.nodes.vllm_loader import VLLMLoader


def interpret(vllm: Any, task: str = "edit", **inputs: Any) -> tuple[Any, ...]:
    scene, mask = torch.rand(1, 32, 48, 3), torch.ones(1, 32, 48)
    request = {"instruction": "remove this", "task": task, "reply": "direct", "mask": mask}
    return MaskInterpreter.execute(vllm, scene, **(request | inputs)).args


def life(name: str) -> dict[str, Any]:
    """A model from the node that opens it until nothing holds it."""
    (vllm,) = VLLMLoader.execute(name, "auto").args
    figures: dict[str, Any] = {
        "bytes before use": vllm.get_ram_usage(),
        "patcher before use": repr(getattr(vllm, "patcher", None)),
    }
    _, reply, label, marked = interpret(vllm)
    figures |= {
        "reply": reply,
        "label": label,
        "marked": list(marked.shape),
        "bytes": vllm.get_ram_usage(),
        "loaded": [type(one.model.model).__name__ for one in models()],
    }
    module = weakref.ref(vllm.read().model)
    again = interpret(vllm)
    figures["same reply again"] = (again[1], again[2]) == (reply, label)
    figures["same module again"] = vllm.read().model is module()
    del vllm, again
    return figures | in_the_end(module)


def cancelled(name: str) -> dict[str, Any]:
    """A reading that is cancelled before its first token, and the one after it."""
    (vllm,) = VLLMLoader.execute(name, "auto").args
    model_management.interrupt_current_processing(True)
    try:
        interpret(vllm)
    except model_management.InterruptProcessingException:
        return {"raised": True, "label": interpret(vllm)[2]}
    return {"raised": False}


def precisions(name: str, device_has_bf16: bool) -> dict[str, str]:
    """What a model computes in, by the precision chosen."""
    model_management.should_use_bf16 = lambda *_: device_has_bf16
    return {
        chosen: str(VLLMLoader.execute(name, chosen).args[0].dtype)
        for chosen in ("auto", "fp16", "fp32")
    }


def everything(root: str) -> dict[str, Any]:
    return {
        "names": names("LLM", ".gguf", VLLMLoader, folders.vllm_folders, root),
        "life": life("tiny-llava"),
        "cancelled": cancelled("tiny-llava"),
        "bf16 weights": precisions("Qwen/tiny", True),
        "bf16 weights without bf16": precisions("Qwen/tiny", False),
        "other weights": precisions("tiny-llava", True),
    }


if __name__ == "__main__":
    inside.main({"everything": everything}, sys.argv[1:])
