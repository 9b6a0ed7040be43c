# ruff: noqa: E402
"""Where our nodes look whether Cancel was pressed, and what is left of a run that was cancelled.

``steps(MODEL, SAM, SIDE)``: of each kind of work how often it looks, the most CPU seconds between
two looks (so long one waits where nothing else runs), and how a run ends that is cancelled at half
of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inside

inside.enter()

# isort: split
import torch
from comfy import model_management
from flexedit_pack.flexedit.model_folder import ModelFolder, load_stock_vllm
from flexedit_pack.flexedit.resolve.sam import load_sam
from flexedit_pack.nodes.composite import Composite
from flexedit_pack.nodes.crop import Crop
from flexedit_pack.nodes.expressive import ExpressiveInstruction
from flexedit_pack.nodes.interpreter import MaskInterpreter
from flexedit_pack.nodes.resolve import ResolveMask
from flexedit_pack.nodes.runtime.parts import ManagedPart

MENDING = {"fill_holes": True, "min_area": 64, "grow": 3, "feather": 2}
SETTINGS = {"region": "mask + connected change", "grow": 5, "feather": 2, "color_match": True}


class Watch:
    """Counts the looks at whether Cancel was pressed, and presses it before one of them."""

    def __init__(self, press_at: int = 0) -> None:
        self.press_at, self.looks, self.longest = press_at, 0, 0.0

    def __enter__(self) -> Watch:
        self.look = model_management.throw_exception_if_processing_interrupted
        model_management.throw_exception_if_processing_interrupted = self
        self.last = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        model_management.throw_exception_if_processing_interrupted = self.look

    def __call__(self) -> None:
        self.looks += 1
        if self.looks == self.press_at:
            model_management.interrupt_current_processing(True)
        now = time.process_time()
        self.longest, self.last = max(self.longest, now - self.last), now
        self.look()


def cancelled(work: Callable[[], torch.Tensor]) -> dict[str, Any]:
    """A run, the same again cancelled at half of its looks, and once more."""
    work()  # what is imported or loaded once is not part of it
    with Watch() as whole:
        before = work()
    figures: dict[str, Any] = {"looks": whole.looks, "longest": whole.longest, "raised": False}
    with Watch(whole.looks // 2) as half:
        try:
            work()
        except model_management.InterruptProcessingException:
            figures |= {"raised": True, "more looks": half.looks - half.press_at}
    model_management.interrupt_current_processing(False)
    return figures | {"same again": torch.equal(work(), before)}


def steps(model: str, sam: str, side: str) -> dict[str, Any]:
    """``side``: of the large picture, in pixels; three quarters of it high"""
    generator = torch.Generator().manual_seed(0)
    folder, width = ModelFolder(model), int(side)
    vllm = ManagedPart("VLLM", folder.load_vllm, "fp32", folder.config)
    stock = ManagedPart("VLLM", lambda dtype: load_stock_vllm(Path(model, "vllm"), dtype), "fp32")
    segmenter = ManagedPart("SAM", lambda dtype: load_sam(Path(sam), dtype))
    small = torch.rand(1, 3, 12, 16, generator=generator)
    photo = torch.nn.functional.interpolate(small, (width * 3 // 4, width), mode="bicubic")
    photo = photo.clamp(0, 1).movedim(1, -1)
    scribble = torch.zeros(photo.shape[:3])
    scribble[:, width // 4 : width // 3, width // 3 : width // 2] = 1

    def interpret(reply: str) -> torch.Tensor:
        scene, mask = photo[:, :96, :128], torch.ones(1, 96, 128)
        words = {"instruction": "remove this", "task": "edit", "reply": reply, "mask": mask}
        return MaskInterpreter.execute(vllm, scene, **words).args[0].reading.hidden_states

    def express() -> torch.Tensor:
        said = ExpressiveInstruction.execute(stock, photo[:, :96, :128], "make it winter").args[0]
        return torch.tensor(list(said.encode()))

    def resolve(method: str) -> torch.Tensor:
        return ResolveMask.execute(photo, scribble, method, 1, segmenter, **MENDING).args[0]

    def load() -> torch.Tensor:
        part = ManagedPart("VLLM", folder.load_vllm, "fp32", folder.config)
        scene, words = photo[:, :32, :32], {"instruction": "a", "task": "edit", "reply": "direct"}
        return MaskInterpreter.execute(part, scene, **words).args[0].reading.hidden_states

    def put_back() -> torch.Tensor:
        cropped, _, crop = Crop.execute(photo, scribble, 512, 2.0).args
        return Composite.execute(photo, 1 - cropped, scribble, crop=crop, **SETTINGS).args[0]

    return {
        "prefill": cancelled(lambda: interpret("direct")),
        "generation": cancelled(lambda: interpret("generate")),
        "expressive": cancelled(express),
        "classic": cancelled(lambda: resolve("classic")),
        "SAM": cancelled(lambda: resolve("sam")),
        "loading": cancelled(load),
        "Crop and Composite": cancelled(put_back),
    }


if __name__ == "__main__":
    inside.main({"steps": steps}, sys.argv[1:])
