"""Draws the pictures that ComfyUI's template browser shows: what each workflow does, by running it.

python -m tools.thumbnails [name …]      writes workflows/….jpg

Workflows of models that cannot be had here are run up to the mask, and show that. Their photographs
are scikit-image's: coffee (CC0, Rachel Michetti), chelsea (CC0, Stéfan van der Walt) and rocket
(public domain, SpaceX).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flexedit.masks import strokes
from flexedit.model_folder import EMBEDDED
from flexedit.resolve.resolver import resolve
from tools import workflows
from tools.comfyui.server import ComfyServer
from tools.demo import ACCENT, WHITE, Demo, chosen, ground, held_out, painted, tinted
from tools.photographs import to_tensor

SIDE, CARD, MARGIN = 400, 210, 14  # pixels; a card is one of the two pictures


@dataclass(frozen=True)
class Photo:
    """A square of a photograph, what is scribbled on it, and what comes after it in the graph."""

    name: str
    box: tuple[int, int, int, int]
    points: Sequence[tuple[float, float]]
    model: str

    def picture(self) -> Image.Image:
        spec = importlib.util.find_spec("skimage")
        assert spec is not None and spec.origin is not None
        path = Path(spec.origin).parent / "data" / self.name
        return Image.open(path).convert("RGB").crop(self.box).resize((512, 512))

    def drawing(self) -> str:
        return workflows.drawing(self.points, 0.05)


PHOTOS = {
    "scribble_to_sd_inpainting": Photo(
        "coffee.png",
        (100, 0, 500, 400),
        ((0.22, 0.15), (0.75, 0.2), (0.25, 0.3), (0.75, 0.4), (0.35, 0.5), (0.62, 0.58)),
        "SD",
    ),
    "scribble_to_flux_fill": Photo(
        "chelsea.png", (60, 0, 360, 300), ((0.3, 0.3), (0.6, 0.4), (0.4, 0.6)), "FLUX Fill"
    ),
    "scribble_to_qwen_image_edit": Photo(
        "rocket.jpg", (120, 0, 547, 427), ((0.5, 0.3), (0.51, 0.5), (0.5, 0.7)), "Qwen"
    ),
}
HELD_OUT = {  # scenes of the world, by operation and number
    "edit_one_picture": ("remove", 10),
    "insert_a_subject": ("insert", 0),
    "what_does_my_scribble_mean": ("segment", 0),
}
SIZE = 64  # pixels a side that the embedded model edits at once


def main(names: Sequence[str]) -> None:
    with ComfyServer() as comfy:
        for name in names or workflows.NAMES:
            cards = photo(name, PHOTOS[name]) if name in PHOTOS else held(comfy, name)
            path = workflows.TEMPLATES[name].with_suffix(".jpg")
            thumbnail(*cards).save(path, quality=88, optimize=True)
            print(path)


def photo(name: str, photo: Photo) -> tuple[Image.Image, Image.Image, str]:
    """The scribble, the mask that the graph would find, and what would come next."""
    prompt = workflows.api_workflow(name)
    inputs = prompt[workflows.node_of(prompt, "FlexEditResolveMask")]["inputs"]
    settings = {key: value for key, value in inputs.items() if not isinstance(value, list)}
    scene = photo.picture()
    drawn = strokes.rasterise(strokes.parse(photo.drawing()), scene.height, scene.width)
    mask = resolve(to_tensor(np.asarray(scene))[None], drawn, **settings).mask[0].numpy()
    opacity = Image.fromarray((mask * 255).round().astype(np.uint8))
    return painted(scene, drawn.numpy() > 0), tinted(scene, opacity), photo.model


def held(comfy: ComfyServer, name: str) -> tuple[Image.Image, Image.Image, str]:
    """The scribble and the result, by the embedded model."""
    wish = held_out(*HELD_OUT[name], SIZE) if name in HELD_OUT else next(chosen(SIZE))
    demo = Demo(comfy, EMBEDDED, 0, SIZE)
    outputs = demo.run(name, wish)
    before = painted(Image.fromarray(wish.scene), wish.mask)
    if name == "what_does_my_scribble_mean":
        mask = demo.picture(outputs["Its mask"]).convert("L").resize((CARD, CARD))
        scene = Image.fromarray(wish.scene).resize((CARD, CARD), Image.Resampling.BICUBIC)
        return before, tinted(scene, mask), f"“{outputs['Its name']['text'][0]}”"
    if wish.subject is not None:
        subject = Image.fromarray(wish.subject)
        before = large(before)
        before.paste(large(subject).resize((CARD // 3, CARD // 3)), (0, CARD - CARD // 3))
    return before, demo.picture(outputs["Save"]), ""


def thumbnail(before: Image.Image, after: Image.Image, label: str) -> Image.Image:
    """One card behind the other, top left and bottom right."""
    page = ground(SIDE, SIDE)
    draw = ImageDraw.Draw(page)
    far = SIDE - MARGIN - CARD
    for card, at in ((before, MARGIN), (after, far)):
        frame = (at - 4, at - 4, at + CARD + 3, at + CARD + 3)
        draw.rounded_rectangle(frame, 10, fill=WHITE)
        page.paste(large(card), (at, at), corners())
    font = ImageFont.load_default(30)
    draw.text((SIDE - MARGIN, 84), label, ACCENT, font, anchor="rm")
    return page


def large(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((CARD, CARD), Image.Resampling.BICUBIC)


def corners() -> Image.Image:
    """What of a card is seen."""
    mask = Image.new("L", (CARD, CARD))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, CARD - 1, CARD - 1), 8, fill=255)
    return mask


if __name__ == "__main__":
    main(sys.argv[1:])
