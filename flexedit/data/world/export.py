"""Looking at samples, and writing them down."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..sample import Sample
from .world import World

PICTURES = ("scene", "mask", "subject", "target", "region", "object_mask")
WORDS = ("kind", "task", "operation", "instruction", "caption", "reply", "label")


def contact_sheet(samples: Sequence[Sample], columns: int = 8, scale: int = 2) -> Image.Image:
    """Marked scene, target and subject of every sample above its words."""
    cell = samples[0].scene.shape[0] * scale
    width, height = cell + 8, 3 * cell + 76
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "black")
    pen = ImageDraw.Draw(sheet)
    for index, sample in enumerate(samples):
        x, y = index % columns * width, index // columns * height
        assert sample.mask is not None
        marked = np.where(sample.mask[:, :, None], sample.scene // 2 + 128, sample.scene)
        for row, picture in enumerate((marked, sample.target, sample.subject)):
            if picture is not None:
                enlarged = Image.fromarray(picture.astype(np.uint8)).resize((cell, cell), 0)
                sheet.paste(enlarged, (x, y + row * cell))
        limit = max(10, width // 6)
        what = f"{sample.operation}, {sample.kind}"
        lines = [what, sample.instruction, sample.caption, sample.reply]
        wrapped = [part for line in lines for part in textwrap.wrap(line, limit)]
        for row, line in enumerate(wrapped[:6]):
            pen.text((x, y + 3 * cell + 2 + 12 * row), line, fill="white")
    return sheet


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
