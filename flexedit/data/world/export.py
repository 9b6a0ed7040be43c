"""Samples of the world as a folder to train on, with its index."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from .world import World

PICTURES = ("scene", "mask", "subject", "target", "region", "object_mask")
WORDS = ("kind", "task", "operation", "instruction", "caption", "reply", "label")


def write(world: World, indices: Iterable[int], out_dir: str | Path) -> Path:
    """Writes scenes, masks, targets, regions and subjects as PNG, words into index.jsonl."""
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    index_file = folder / "index.jsonl"
    with index_file.open("w", encoding="utf-8") as lines:
        for index in indices:
            sample = world[index]
            files = {}
            for part in PICTURES:
                array = getattr(sample, part)
                if array is None:
                    continue
                files[part] = f"{index:07d}_{part}.png"
                if array.dtype == bool:
                    array = array.astype(np.uint8) * 255
                Image.fromarray(array).save(folder / files[part])
            words = {part: getattr(sample, part) for part in WORDS}
            lines.write(json.dumps({"index": int(index), **words, **files}) + "\n")
    return index_file
