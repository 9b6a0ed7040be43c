"""Edits a photograph, and scenes that no model was trained on, through a real ComfyUI.

python -m tools.demo      draws out/demo.png with the embedded model

The edits are chosen to be shown: of all its edits the model gets about half right (MODEL_CARD.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from flexedit.data.sample import Sample
from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.masks import strokes
from flexedit.model_folder import EMBEDDED, PRETRAINED, ModelFolder
from tools import workflows
from tools.comfyui.server import ComfyServer

WORKFLOW = "large_photo"
COLUMNS = ("scene", "scribble", "whole object", "result")
SIDE, GAP, HEAD, TEXT = 256, 16, 52, 40  # pixels: a shown picture, between two, titles, words
TOP, BOTTOM = (58, 63, 143), (20, 23, 47)  # of the ground behind the pictures
WHITE, ACCENT, PALE = (255, 255, 255), (94, 242, 224), (200, 204, 245)
SPOON = ((0.59, 0.72), (0.7, 0.68), (0.65, 0.8), (0.74, 0.72))  # scribbled on the coffee
HELD_OUT = (("remove", 10), ("replace", 12))  # scenes of the world, by number
SCALE = 4  # such a scene is so many times larger than what the model edits at once


@dataclass(frozen=True)
class Wish:
    """What a person gives: scene (H, W, 3) uint8, a scribble on it (H, W) bool, and words."""

    scene: np.ndarray
    mask: np.ndarray
    instruction: str
    subject: np.ndarray | None = None


@dataclass(frozen=True)
class Row:
    """A wish, the whole object that its scribble means, and what became of it."""

    wish: Wish | Sample
    whole: Image.Image
    result: Image.Image


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--models-dir", type=Path, default=PRETRAINED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/demo.png"))
    options = parser.parse_args(arguments)
    try:
        path = options.models_dir / options.model
        folder = ModelFolder.embedded() if path == PRETRAINED / EMBEDDED else ModelFolder(path)
    except FlexEditError as error:
        print(error, file=sys.stderr)
        return 2
    log = options.out.with_suffix(".json")
    last = ""
    if log.is_file():
        last = f" This took {json.loads(log.read_text())['seconds']} s last time."
    size = folder.config.sampling.size
    wishes = list(chosen(size))
    say(f"{len(wishes)} edits by {options.model}, on the CPU.{last}")
    start = time.monotonic()
    say("Starting ComfyUI …")
    models = {} if options.model == EMBEDDED else {f"flexedit/{options.model}": folder.path}
    rows = []
    with ComfyServer(models=models) as comfy:
        demo = Demo(comfy, options.model, options.seed, size)
        for number, wish in enumerate(wishes, 1):
            say(f"Edit {number} of {len(wishes)}: “{wish.instruction}” …")
            rows.append(demo.row(wish))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(options.out)
    seconds = round(time.monotonic() - start)
    log.write_text(json.dumps({"seconds": seconds}))
    say(f"Done after {seconds} s. The picture: {options.out.resolve()}")
    return 0


def chosen(size: int) -> Iterator[Wish | Sample]:
    """The edits that are shown."""
    scene = coffee()
    drawn = strokes.rasterise(strokes.parse(workflows.drawing(SPOON)), scene.height, scene.width)
    yield Wish(np.asarray(scene), drawn.numpy() > 0, "replace it with a strawberry")
    for operation, number in HELD_OUT:
        yield held_out(operation, number, SCALE * size)


def coffee() -> Image.Image:
    """A square of a photograph by Rachel Michetti, CC0."""
    from skimage import data

    return Image.fromarray(data.coffee()).crop((100, 0, 500, 400))


def held_out(operation: str, index: int, size: int) -> Sample:
    return World(size, split="heldout", operations={operation: 1.0})[index]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Demo:
    """Runs the shipped workflows on our pictures; `size`: what the model edits at once."""

    def __init__(self, comfy: ComfyServer, model: str, seed: int, size: int) -> None:
        self.comfy = comfy
        self.model = model
        self.seed = seed
        self.size = size

    def row(self, wish: Wish | Sample) -> Row:
        outputs = self.run(WORKFLOW, wish)
        return Row(wish, self.picture(outputs["Its mask"]), self.picture(outputs["Save"]))

    def run(self, name: str, wish: Wish | Sample) -> dict[str, Any]:
        """→ the outputs of a shipped workflow, by the titles of its nodes."""
        prompt = workflows.api_workflow(name)
        ids = {node["_meta"]["title"]: node_id for node_id, node in prompt.items()}
        uploads = {"Scene": scribbled(wish), "Subject": wish.subject}
        settings = {
            "Model": {"model": self.model},
            "What is meant": {"instruction": wish.instruction},
            "Edit": {"seed": self.seed},
            "Cut out": {"size": self.size},
        }
        for title, node_id in ids.items():
            inputs = prompt[node_id]["inputs"]
            inputs |= settings.get(title, {})
            if title in uploads:
                picture = Image.fromarray(uploads[title])
                inputs["image"] = self.comfy.upload_image(picture, f"{title}.png")
            if inputs.get("mask") == [ids.get("Where"), 0]:
                inputs["mask"] = [ids["Scene"], 1]  # scribbled, not drawn by numbers
        whole = ids.get("The whole object")
        if whole and "Its mask" not in ids:  # the mask is to be shown, and no words
            prompt[ids["What is meant"]]["inputs"]["reply"] = "direct"
            ids["Its mask"] = "whole object"
            prompt["whole object"] = {
                "class_type": "MaskPreview",
                "inputs": {"mask": [whole, 0]},
            }
        titles = {node_id: title for title, node_id in ids.items()}
        outputs = self.comfy.run(prompt, lambda node, *counts: progress(titles[node], *counts))
        return {titles[node_id]: output for node_id, output in outputs.items()}

    def picture(self, output: dict[str, Any]) -> Image.Image:
        return self.comfy.fetch_image(output["images"][0]).convert("RGB")


def progress(title: str, value: float, maximum: float) -> None:
    """Counts the steps of a node where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K  {title} {value:.0f}/{maximum:.0f}\r", file=sys.stderr, end="", flush=True)


def scribbled(wish: Wish | Sample) -> np.ndarray:
    """The scene, transparent where the mask is: what ComfyUI's MaskEditor saves."""
    alpha = np.where(wish.mask, 0, 255).astype(np.uint8)
    return np.dstack([wish.scene, alpha])


def sheet(rows: list[Row]) -> Image.Image:
    """One row per edit, its words above the pictures."""
    step = TEXT + SIDE + GAP
    page = ground(GAP + len(COLUMNS) * (SIDE + GAP), HEAD + len(rows) * step + GAP)
    draw = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(26), ImageFont.load_default(20)
    lefts = [GAP + column * (SIDE + GAP) for column in range(len(COLUMNS))]
    for left, title in zip(lefts, COLUMNS, strict=True):
        draw.text((left, HEAD / 2), title, WHITE, large, anchor="lm")
    for index, row in enumerate(rows):
        top = HEAD + index * step
        words = f"“{row.wish.instruction}”"
        draw.text((lefts[0], top + TEXT / 2), words, PALE, small, anchor="lm")
        scene = Image.fromarray(row.wish.scene)
        cells = (scene, painted(scene, row.wish.mask), tinted(scene, row.whole), row.result)
        for left, cell in zip(lefts, cells, strict=True):
            page.paste(cell.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top + TEXT))
    return page


def ground(width: int, height: int) -> Image.Image:
    """What lies behind pictures, dark enough for white words."""
    shade = np.linspace(0, 1, height)[:, None, None]
    colors = np.array(TOP) * (1 - shade) + np.array(BOTTOM) * shade
    return Image.fromarray(np.broadcast_to(colors, (height, width, 3)).astype(np.uint8))


def painted(scene: Image.Image, mask: np.ndarray) -> Image.Image:
    """The scene with a scribble in white."""
    opacity = Image.fromarray((mask * 225).astype(np.uint8))
    return Image.composite(Image.new("RGB", scene.size, WHITE), scene, opacity)


def tinted(scene: Image.Image, mask: Image.Image) -> Image.Image:
    """The scene with a mask in colour, and its outline."""
    mask = mask.convert("L").resize(scene.size)
    color = Image.new("RGB", scene.size, ACCENT)
    fill = Image.composite(color, scene, mask.point(lambda value: value * 0.45))
    thick = max(3, scene.width // 120 * 2 + 1)
    hard = mask.point(lambda value: 255 if value > 127 else 0)
    rim = np.asarray(hard.filter(ImageFilter.MaxFilter(thick))) > np.asarray(hard)
    return Image.composite(color, fill, Image.fromarray((rim * 255).astype(np.uint8)))


if __name__ == "__main__":
    sys.exit(main())
