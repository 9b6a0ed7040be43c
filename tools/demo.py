"""Edits six pictures that no model was trained on, through a real ComfyUI, and shows them.

python -m tools.demo      draws out/demo.png with the embedded model
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flexedit.data.sample import Sample
from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.model_folder import EMBEDDED, PRETRAINED, ModelFolder
from tools import workflows
from tools.comfyui.server import ComfyServer

OPERATIONS = ("remove", "replace", "insert") * 2
COLUMNS = ("scene", "scribble", "what it means", "edit")
SIDE, GAP = 192, 16  # pixels of a shown picture, and between two
PAPER, INK, GREY = "white", "black", "#666666"


@dataclass(frozen=True)
class Row:
    sample: Sample
    marked: Image.Image
    reply: str
    mask: Image.Image | None  # of the whole object that the scribble means; None: an empty place
    edit: Image.Image

    @property
    def words(self) -> str:
        if self.mask is None:
            return "an empty place for [pic2]"
        return f"“{self.reply}”" if self.reply else "(no words)"


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
    start = time.monotonic()
    say("Starting ComfyUI …")
    models = {} if options.model == EMBEDDED else {f"flexedit/{options.model}": folder.path}
    with ComfyServer(models=models) as comfy:
        demo = Demo(comfy, options.model, options.seed)
        size = folder.config.sampling.size
        rows = [demo.row(sample) for sample in first_scenes(size)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(options.out)
    say(f"{options.out} is ready after {time.monotonic() - start:.0f} s.")
    for row in rows:
        print(f"“{row.sample.instruction}” · {row.words}")
    return 0


def held_out(operation: str, index: int, size: int) -> Sample:
    return World(size, split="heldout", operations={operation: 1.0})[index]


def first_scenes(size: int) -> list[Sample]:
    """The first scenes on photographs kept out of training whose scribble covers half of what is
    meant, so that a reader can see it, whatever the model makes of them.
    """
    found: list[Sample] = []
    for index in itertools.count():
        sample = held_out(OPERATIONS[len(found)], index, size)
        covered = sample.mask[sample.object_mask].mean()
        if sample.setting != "none" and covered > 0.5:
            found.append(sample)
        if len(found) == len(OPERATIONS):
            return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Demo:
    """Runs the shipped workflows on our pictures."""

    def __init__(self, comfy: ComfyServer, model: str, seed: int) -> None:
        self.comfy = comfy
        self.model = model
        self.seed = seed

    def row(self, sample: Sample) -> Row:
        say(f"“{sample.instruction}”")
        name = "edit_one_picture" if sample.subject is None else "insert_a_subject"
        edited = self.run(name, sample, sample.instruction)
        marked, edit = (self.picture(edited[title]) for title in ("What the model sees", "Save"))
        if sample.operation == "insert":
            return Row(sample, marked, "", None, edit)
        meant = self.run("what_does_my_scribble_mean", sample, "")
        reply = meant["What the model says"]["text"][0]
        return Row(sample, marked, reply, self.picture(meant["Its mask"]), edit)

    def run(self, name: str, sample: Sample, instruction: str) -> dict[str, Any]:
        """→ the outputs of a shipped workflow, by the titles of its nodes."""
        prompt = workflows.api_workflow(name)
        ids = {node["_meta"]["title"]: node_id for node_id, node in prompt.items()}
        uploads = {"Scene": scribbled(sample), "Subject": sample.subject}
        for title, node_id in ids.items():
            inputs = prompt[node_id]["inputs"]
            if title in uploads:
                picture = Image.fromarray(uploads[title])
                inputs["image"] = self.comfy.upload_image(picture, f"{title}.png")
            if title == "Model":
                inputs["model"] = self.model
            if title == "What is meant":
                inputs["instruction"] = instruction
            if title == "Edit":
                inputs["seed"] = self.seed
            if inputs.get("mask") == [ids.get("Where"), 0]:
                inputs["mask"] = [ids["Scene"], 1]  # scribbled, not drawn by numbers
        titles = {node_id: title for title, node_id in ids.items()}
        outputs = self.comfy.run(prompt, lambda node, *counts: progress(titles[node], *counts))
        return {titles[node_id]: output for node_id, output in outputs.items()}

    def picture(self, output: dict[str, Any]) -> Image.Image:
        return self.comfy.fetch_image(output["images"][0]).convert("RGB")


def progress(title: str, value: float, maximum: float) -> None:
    """Counts the steps of a node where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K  {title} {value:.0f}/{maximum:.0f}\r", file=sys.stderr, end="", flush=True)


def scribbled(sample: Sample) -> np.ndarray:
    """The scene, transparent where the mask is: what ComfyUI's MaskEditor saves."""
    alpha = np.where(sample.mask, 0, 255).astype(np.uint8)
    return np.dstack([sample.scene, alpha])


def sheet(rows: list[Row]) -> Image.Image:
    """One row per edit, titles above the columns and what was said below the pictures."""
    head, text = 40, 34
    step = text + SIDE + 36
    width = GAP + len(COLUMNS) * (SIDE + GAP)
    page = Image.new("RGB", (width, head + len(rows) * step), PAPER)
    draw = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(22), ImageFont.load_default(16)
    for column, title in enumerate(COLUMNS):
        draw.text((left(column), 8), title, INK, large)
    for index, row in enumerate(rows):
        top = head + index * step
        draw.text((left(0), top + 2), f"“{row.sample.instruction}”", INK, large)
        top += text
        scene = shown(row.sample.scene)
        meant = painted(scene, row.mask) if row.mask else shown(row.sample.subject)
        for column, cell in enumerate((scene, shown(row.marked), meant, shown(row.edit))):
            page.paste(cell, (left(column), top))
        draw.text((left(2), top + SIDE + 4), row.words, GREY, small)
    return page


def left(column: int) -> int:
    return GAP + column * (SIDE + GAP)


def shown(picture: np.ndarray | Image.Image) -> Image.Image:
    picture = Image.fromarray(np.asarray(picture))
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def painted(scene: Image.Image, mask: Image.Image) -> Image.Image:
    """The scene with the whole object that is meant in red."""
    opacity = mask.convert("L").resize(scene.size, Image.Resampling.NEAREST)
    red = Image.new("RGB", scene.size, "red")
    return Image.composite(red, scene, opacity.point(lambda value: value * 0.6))


if __name__ == "__main__":
    sys.exit(main())
