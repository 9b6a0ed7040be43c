"""A data set or a mixture to look at: a sheet of its samples, and figures of many of them."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .edits import Edits
from .mixture import Mixture
from .sample import Sample

LINES, LINE, MARGIN = 5, 14, 6  # of text below a sample; pixels
PAPER, INK = (250, 250, 248), (30, 30, 30)
FONTS = ("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "DejaVuSans.ttf", "arial.ttf")


def sheet(samples: Sequence[Sample], columns: int = 4) -> Image.Image:
    """Each sample: its marked scene, target and subject side by side, and below it what is said."""
    cells = [cell(sample) for sample in samples]
    width, height = (max(each.size[axis] for each in cells) for axis in (0, 1))
    rows = -(-len(cells) // columns)
    whole = Image.new("RGB", (columns * width, rows * height), PAPER)
    for number, each in enumerate(cells):
        whole.paste(each, (number % columns * width, number // columns * height))
    return whole


def cell(sample: Sample) -> Image.Image:
    """Three squares wide; of what the sample lacks it is empty."""
    size = sample.scene.shape[0]
    marked = sample.scene
    if sample.mask is not None:
        opacity = 0.5 * sample.mask.astype(np.float32)[..., None]
        marked = (marked * (1 - opacity) + 255 * opacity).astype(np.uint8)
    picture = Image.new("RGB", (3 * (size + 2) + MARGIN, size + LINES * LINE + MARGIN), PAPER)
    for number, shown in enumerate((marked, sample.target, sample.subject)):
        if shown is not None:
            picture.paste(Image.fromarray(shown), (number * (size + 2), 0))
    words = [
        f"{sample.source} · {sample.operation} · {sample.kind if sample.mask is not None else '–'}",
        sample.instruction,
        f"→ {sample.reply}",
    ]
    letters = max(20, 3 * size // 7)
    lines = [line for text in words for line in textwrap.wrap(text, letters)[:2]][:LINES]
    draw, font = ImageDraw.Draw(picture), writing()
    for number, line in enumerate(lines):
        draw.text((2, size + 2 + number * LINE), line, INK, font)
    return picture


def writing() -> Any:
    """A font that has the letters of many languages, if the machine has one"""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, LINE - 3)
        except OSError:
            continue
    return ImageFont.load_default(LINE - 3)


def statistics(data: Edits | Mixture, count: int) -> dict[str, Any]:
    """What the first ``count`` samples are, by their data sets; and what was bad among them."""
    parts = data.parts if isinstance(data, Mixture) else [data]
    samples = defaultdict(list)
    bad: dict[str, str] = {}
    for sample in (data[index] for index in range(count)):
        bad |= dict(sample.skipped)
        samples[sample.source].append(facts(sample))
    return {
        "rows": {part.name: part.reader.describe() for part in parts},
        "samples": {source: summary(found, count) for source, found in samples.items()},
        "bad": bad,
    }


def facts(sample: Sample) -> dict[str, Any]:
    covered = None
    if sample.mask is not None and sample.object_mask is not None and sample.object_mask.any():
        covered = float(sample.mask[sample.object_mask].mean())
    return {
        "operation": sample.operation,
        "kind": sample.kind if sample.mask is not None else "no mask",
        "label": sample.label,
        "target": sample.target is not None,
        "subject": sample.subject is not None,
        "object": None if sample.object_mask is None else float(sample.object_mask.mean()),
        "covered": covered,
    }


def summary(found: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        values = [one[name] for one in found if one[name] is not None]
        return round(fmean(values), 3) if values else None

    return {
        "share": round(len(found) / count, 3),
        "operations": dict(Counter(one["operation"] for one in found).most_common()),
        "masks": dict(Counter(one["kind"] for one in found).most_common()),
        "labels": len({one["label"] for one in found if one["label"]}),
        "with_target": mean("target"),
        "with_subject": mean("subject"),
        "object_of_picture": mean("object"),
        "mask_of_object": mean("covered"),
    }
