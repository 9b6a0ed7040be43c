"""Records README's animation in a real ComfyUI: a scribble, the whole object, the edit.

python -m tools.animation      writes docs/pictures/edit.webp

The page is used as by a person, and what it shows is what the embedded model makes of a photograph.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tools.comfyui.editor import Editor, Place, chromium, find_chromium
from tools.comfyui.fetch import PACK
from tools.comfyui.server import ComfyServer
from tools.demo import SPOON, WORKFLOW, coffee
from tools.pictures import OVERLAYS, Scene, View, bounds, show, wait_for_all

PATH = PACK / "docs" / "pictures" / "edit.webp"
LOOK: dict[str, Any] = {"viewport": {"width": 1500, "height": 1150}}
TOP = 20  # CSS pixels above the nodes that are left out: the page's own buttons reach there
HEIGHT = 830  # CSS pixels that are shown: nodes grow with what they show
WIDTH, QUALITY = 900, 82  # of the animation, in pixels; of WebP
INSTRUCTION = "replace it with a strawberry"
SEED = 0
# Settings of the page: neither links, hints nor what belongs to the node that is selected.
QUIET = {
    "Comfy.LinkRenderMode": -1,
    "Comfy.EnableTooltips": False,
    "Comfy.Canvas.SelectionToolbox": False,
}
# Changes settings → what they were
SET = """(settings) => Object.fromEntries(Object.entries(settings).map(([name, value]) => {
  const before = app.ui.settings.getSettingValue(name);
  app.ui.settings.setSettingValue(name, value);
  return [name, before];
}))"""
STEPS_OF_MOUSE = 4  # between two corners of the scribble
LONGEST_RUN = 300  # seconds
SHORT, PAUSE, LONG = 90, 1000, 3500  # milliseconds that a frame is seen

VIEW = View(
    WORKFLOW,
    Scene("coffee.png", (0.5, 0.5), (0.1, 0.1)),
    {
        "FlexEditFreeShapeMask": (0, 0, 380, 520),
        "FlexEditResolveMask": (430, 0, 380, 240),
        "FlexEditMaskInterpreter": (860, 0, 380, 290),
        "SaveImage": (860, 350, 380, 410),
    },
    runs=False,
    values={
        "FlexEditMaskInterpreter": ("", "edit", "direct"),
        "FlexEditKSampler": (SEED, "fixed", 20, 3.0, 1.5, "euler", "simple", 1.0),
    },
)


def main() -> int:
    path = find_chromium()
    if path is None:
        print("No Chromium is installed.", file=sys.stderr)
        return 2
    with ComfyServer() as comfy, chromium(path, **LOOK) as page:
        record(Editor(page, comfy), PATH)
    print(f"{PATH}: {PATH.stat().st_size:,} bytes")
    return 0


def record(editor: Editor, path: Path) -> None:
    """Writes the animation."""
    editor.comfy.upload_image(coffee(), VIEW.scene.name)
    frames, milliseconds = zip(*watched(editor), strict=True)
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=milliseconds,
        loop=0,
        quality=QUALITY,
        method=6,
    )


def watched(editor: Editor) -> Iterator[tuple[Image.Image, int]]:
    """What is seen while somebody edits the picture, and for how many milliseconds."""
    show(editor, VIEW)
    usual = editor.evaluate(SET, QUIET)
    editor.set_text("")
    wait_for_all(editor, VIEW)
    editor.page.add_style_tag(content=f"{OVERLAYS} {{ visibility: hidden !important; }}")
    editor.wait_for_node()  # its drawing knows its picture before it is laid out
    editor.wait_for_layout()
    editor.page.wait_for_timeout(1000)
    yield shot(editor), PAUSE
    mouse = editor.page.mouse
    first, *others = [place(editor, point) for point in SPOON]
    mouse.move(*first)
    mouse.down()
    for start, end in itertools.pairwise([first, *others]):
        for step in range(1, STEPS_OF_MOUSE + 1):
            share = step / STEPS_OF_MOUSE
            mouse.move(*(a + (b - a) * share for a, b in zip(start, end, strict=True)))
            yield shot(editor), SHORT
    mouse.up()
    yield shot(editor), PAUSE
    words = editor.page.locator("textarea:visible").first
    words.click()
    editor.evaluate("app.canvas.deselectAll()")
    for end in range(0, len(INSTRUCTION) + 1, 4):
        words.fill(INSTRUCTION[:end])
        yield shot(editor), SHORT
    editor.evaluate("document.activeElement.blur()")
    yield shot(editor), PAUSE
    yield from running(editor)
    yield shot(editor), LONG
    editor.evaluate(SET, usual)


def running(editor: Editor) -> Iterator[tuple[Image.Image, int]]:
    """What is new on the page from the start of a run to its end."""
    before = set(editor.comfy.get("history").json())
    editor.evaluate("app.queuePrompt(0, 1)")
    seen = shot(editor)
    deadline = time.monotonic() + LONGEST_RUN
    while not editor.comfy.get("history").json().keys() - before:
        assert time.monotonic() < deadline, "the page did not run the graph"
        editor.page.wait_for_timeout(100)
        now = shot(editor)
        if now.tobytes() != seen.tobytes():
            yield now, 3 * SHORT
        seen = now
    editor.wait("document.querySelector('.flexedit-badges')?.childElementCount")
    saved = editor.node("SaveImage", "String(node.id)")
    editor.wait(f"document.querySelector('[data-node-id=\"{saved}\"] img')?.naturalWidth")
    editor.page.wait_for_timeout(1500)


def place(editor: Editor, point: Place) -> Place:
    """Where a point of the square picture is on the page."""
    box = editor.page.locator(".flexedit-stage canvas").first.bounding_box()
    side = min(box["width"], box["height"])
    starts = (box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2)
    return starts[0] + point[0] * side, starts[1] + point[1] * side


def shot(editor: Editor) -> Image.Image:
    """The nodes as the page shows them."""
    clip = bounds(editor, VIEW.kinds)
    clip |= {"y": clip["y"] + TOP, "height": HEIGHT}
    picture = Image.open(BytesIO(editor.page.screenshot(clip=clip)))
    size = (WIDTH, round(WIDTH * picture.height / picture.width))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    sys.exit(main())
