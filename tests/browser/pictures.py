"""Takes the pictures of the nodes that README and node help show, in a real ComfyUI.

python -m tests.browser.pictures      writes web/docs/pictures/
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tests.browser.editor import Editor, Node, chromium, find_chromium, workflow
from tests.comfyui.demo import held_out
from tests.comfyui.fetch import PACK
from tests.comfyui.server import ComfyServer

FOLDER = PACK / "web" / "docs" / "pictures"
VIEWPORT = {"width": 1800, "height": 1200}
SHARPNESS = 1.5  # pixels of the picture for one of the page, where LARGEST allows
MARGIN = 24  # CSS pixels around the nodes
COLORS = 224
LARGEST = 150_000  # bytes
# What lies over the graph, and is not part of a node.
OVERLAYS = (
    "header, nav, aside, .minimap-main-container, .actionbar, .p-toast, .side-tool-bar-container"
)


@dataclass(frozen=True)
class Scene:
    """A picture, where the thing to scribble on is in it, and the node for it."""

    name: str
    middle: tuple[float, float]
    half: tuple[float, float]
    width: int  # of the node

    @property
    def scribble(self) -> list[list[float]]:
        """To and fro, from left to right."""
        steps = [step / 30 - 1 for step in range(61)]
        return [
            [
                round(self.middle[0] + self.half[0] * step, 4),
                round(self.middle[1] + self.half[1] * math.sin(2 * math.pi * (step + 1)), 4),
            ]
            for step in steps
        ]


COFFEE = Scene("coffee.png", (0.485, 0.3), (0.115, 0.16), 380)
CAKE = Scene("cake.png", (0.7, 0.36), (0.17, 0.1), 340)


def main() -> int:
    path = find_chromium()
    if path is None:
        print("No Chromium is installed.", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    look: dict[str, Any] = {"viewport": VIEWPORT, "device_scale_factor": SHARPNESS}
    with ComfyServer() as comfy, chromium(path, **look) as page:
        editor = Editor(page, comfy)
        upload_scenes(comfy)
        editor.open()
        for renderer in ("classic", "vue"):
            editor.render(renderer)
            draw(editor, renderer)
        reply(editor)
        resolve(editor)
    return 0


def upload_scenes(comfy: ComfyServer) -> None:
    from skimage import data  # coffee: a photograph by Rachel Michetti, CC0

    comfy.upload_image(Image.fromarray(data.coffee()), COFFEE.name)
    comfy.upload_image(Image.fromarray(held_out("remove", 6, 256).scene), CAKE.name)


def draw(editor: Editor, renderer: str) -> None:
    height = 396 if renderer == "classic" else 300  # a Vue node becomes as high as it must
    editor.load(workflow(scribbled(COFFEE, height), editor.next_id()))
    editor.wait_for_node()
    editor.wait_for_picture(3 / 2)
    save(editor, f"drawing-{renderer}.png", ["FlexEditFreeShapeMask"])


def reply(editor: Editor) -> None:
    inputs = {"vllm": (2, 3, "FLEXEDIT_VLLM"), "scene": (0, 0, "IMAGE"), "mask": (1, 0, "MASK")}
    values = ("remove this", "edit", "generate")
    nodes = (
        *scribbled(CAKE),
        Node("FlexEditLoader", (100, 900), (280, 180), ("flexedit-mini", "auto")),
        Node("FlexEditMaskInterpreter", (920, 200), (360, 300), values, inputs),
    )
    editor.load(workflow(nodes, editor.next_id()))
    editor.wait_for_node()
    editor.queue()
    editor.wait("document.querySelector('.flexedit-card')?.checkVisibility()")
    save(editor, "reply.png", ["FlexEditFreeShapeMask", "FlexEditMaskInterpreter"])


def resolve(editor: Editor) -> None:
    inputs = {"scene": (0, 0, "IMAGE"), "mask": (1, 0, "MASK")}
    nodes = (
        *scribbled(COFFEE),
        Node("FlexEditResolveMask", (920, 200), (380, 320), (), inputs),
    )
    editor.load(workflow(nodes, editor.next_id()))
    editor.wait_for_node()
    editor.queue()
    editor.wait("document.querySelector('.flexedit-badges')?.childElementCount")
    save(editor, "resolver.png", ["FlexEditFreeShapeMask", "FlexEditResolveMask"])


def scribbled(scene: Scene, height: int = 300) -> tuple[Node, Node]:
    """LoadImage → FlexEditFreeShapeMask with a scribble on it"""
    stroke = {"tool": "brush", "width": 0.06, "points": scene.scribble}
    text = json.dumps({"version": 1, "strokes": [stroke]})
    values = ("drawn", 0.5, 0.5, 0.4, 0.4, 0, 0.06, 0, "fixed", 512, 512, text)
    image = {"image": (0, 0, "IMAGE")}
    return (
        Node("LoadImage", (100, 200), (280, 330), (scene.name,)),
        Node("FlexEditFreeShapeMask", (460, 200), (scene.width, height), values, image),
    )


def save(editor: Editor, name: str, kinds: Sequence[str]) -> None:
    """Writes what the page shows of these nodes."""
    page = editor.page
    page.evaluate("app.canvas.deselectAll()")
    page.mouse.move(5, VIEWPORT["height"] - 5)
    page.add_style_tag(content=f"{OVERLAYS} {{ visibility: hidden !important; }}")
    page.wait_for_timeout(1500)  # fonts, images and what moves by itself
    left, top, right, bottom = editor.evaluate(
        """(kinds) => {
          const boxes = kinds.flatMap((kind) => app.graph.findNodesByType(kind)).map((node) => {
            const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0], node.pos[1] - 50]);
            const scale = app.canvas.ds.scale;
            return [x, y, x + node.size[0] * scale, y + (node.size[1] + 50) * scale];
          });
          const ends = boxes.reduce((one, two) => one.map((value, index) =>
            index < 2 ? Math.min(value, two[index]) : Math.max(value, two[index])));
          const { left, top } = app.canvas.canvas.getBoundingClientRect();
          return [ends[0] + left, ends[1] + top, ends[2] + left, ends[3] + top];
        }""",
        list(kinds),
    )
    clip = {
        "x": left - MARGIN,
        "y": top - MARGIN,
        "width": right - left + 2 * MARGIN,
        "height": bottom - top + 2 * MARGIN,
    }
    shot = Image.open(BytesIO(page.screenshot(clip=clip))).convert("RGB")
    path = Path(FOLDER, name)
    for percent in range(100, 40, -5):
        size = (shot.width * percent // 100, shot.height * percent // 100)
        smaller = shot.resize(size, Image.Resampling.LANCZOS)
        smaller.quantize(COLORS, kmeans=8).save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            break
    print(f"{path.relative_to(PACK)}: {size[0]} × {size[1]}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
