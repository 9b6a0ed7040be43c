# ruff: noqa: E402
"""Our Crop and Composite beside the nodes of ComfyUI-Inpaint-CropAndStitch, for tools.speed."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import inside

inside.enter()

# isort: split
import torch
from flexedit_pack.flexedit import masks
from flexedit_pack.flexedit.masks import compositing

FEATHER = 32  # pixels, as their default


def seconds(folder: str, count: str, side: str) -> dict[str, float]:
    """CPU seconds, in turns, to cut crops of 512² out of ``count`` pictures and to put them back,
    by the nodes in ``folder`` with their defaults and by ours; and to copy the pictures once.
    """
    theirs, size = imported(Path(folder, "inpaint_cropandstitch.py")), int(side)
    small = torch.rand(int(count), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(small, (size, size), mode="bicubic").clamp(0, 1)
    pictures = smooth.movedim(1, -1).contiguous()
    mask = masks.draw("circle", size, size, x=0.4, shape_width=0.2, shape_height=0.2)[None]
    cutter, stitcher = theirs.InpaintCropImproved(), theirs.InpaintStitchImproved()
    asked = [it for part in cutter.INPUT_TYPES().values() for it in part.items()]
    defaults = {name: kind[1]["default"] for name, kind in asked if len(kind) > 1}
    scene = pictures.movedim(-1, 1)

    def by_them(**settings: Any) -> None:
        where, crops, _ = cutter.inpaint_crop(pictures, mask=mask, **defaults | settings)
        stitcher.inpaint_stitch(where, crops)

    def by_us(**settings: Any) -> None:
        crops, _, crop = compositing.cut(scene, mask, 512, 1.6)  # a larger part than theirs
        compositing.put_edit(scene, crops, mask, crop=crop, feather=FEATHER, **settings)

    ways: dict[str, Callable[[], object]] = {
        "theirs": by_them,
        "theirs, on the CPU": lambda: by_them(device_mode="cpu (compatible)"),
        "theirs, without mask_fill_holes": lambda: by_them(mask_fill_holes=False),
        "ours, mask": by_us,
        "ours, mask + connected change": lambda: by_us(
            region=compositing.REGIONS[1], color_match=True
        ),
        "one read and write": scene.clone,
    }
    times = [{name: cpu_seconds(way) for name, way in ways.items()} for _ in range(3)]
    return {name: statistics.median(one[name] for one in times) for name in ways}


def cpu_seconds(way: Callable[[], object]) -> float:
    began = time.process_time()
    way()
    return time.process_time() - began


def imported(file: Path) -> ModuleType:
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    inside.main({"seconds": seconds}, sys.argv[1:])
