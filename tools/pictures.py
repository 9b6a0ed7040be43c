"""Takes the pictures of the nodes that README and node help show, in a real ComfyUI.

python -m tools.pictures      writes web/docs/pictures/

ComfyUI's page asks for Arial: with another font than that or Liberation Sans, words are cut off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tools import workflows
from tools.comfyui.editor import Editor, chromium, find_chromium
from tools.comfyui.fetch import PACK
from tools.comfyui.server import ComfyServer
from tools.demo import held_out
from tools.workflows import drawing

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

TITLE = 50  # CSS pixels that a node's title may take above its place
FAR = 4000  # CSS pixels
PREVIEW = "PreviewImage"

# The node of each kind that is not far away.
FIND = f"""
const find = (kinds) => kinds.map((kind) =>
  app.graph.findNodesByType(kind).find(({{ pos }}) => Math.abs(pos[0]) < {FAR}));
"""
# The graph's coordinates of these nodes: [left, top, right, bottom].
ENDS = f"""
{FIND}
const ends = (kinds) => find(kinds)
  .map(({{ pos, size }}) => [pos[0], pos[1] - {TITLE}, pos[0] + size[0], pos[1] + size[1]])
  .reduce((one, two) => one.map((value, index) =>
    index < 2 ? Math.min(value, two[index]) : Math.max(value, two[index])));
"""
BRING = f"""([kinds, margin]) => {{
  {ENDS}
  const [left, top] = ends(kinds);
  app.canvas.ds.offset = [2 * margin - left, 4 * margin - top];
  app.canvas.setDirty(true, true);
}}"""
BOUNDS = f"""(kinds) => {{
  {ENDS}
  const {{ ds, canvas }} = app.canvas;
  const {{ left, top }} = canvas.getBoundingClientRect();
  const all = ends(kinds);
  return [...ds.convertOffsetToCanvas(all.slice(0, 2)), ...ds.convertOffsetToCanvas(all.slice(2))]
    .map((value, index) => value + (index % 2 ? top : left));
}}"""
# Whether the nodes that show pictures do.
PICTURED = f"""(kinds) => {{
  {FIND}
  return find(kinds).filter(({{ type }}) => /LoadImage|SaveImage|Preview/.test(type)).every(
    ({{ id }}) => document.querySelector(`[data-node-id="${{id}}"] img`)?.naturalWidth);
}}"""
# Runs what leads to some nodes, or all: older pages take their ids, newer ones an object with them.
QUEUE = """(ids) => {
  const target = ids.length ? Object.assign([...ids], { queueNodeIds: ids }) : undefined;
  return app.queuePrompt(0, 1, target);
}"""
# Takes away the links between nodes that are not shown, and those that lead backwards to one.
UNTANGLE = f"""(kinds) => {{
  {FIND}
  const seen = new Set(find(kinds));
  for (const node of app.graph.nodes.filter((it) => !seen.has(it))) {{
    node.inputs.forEach((_, slot) => {{
      const isBehind = node.pos[0] < 0;
      if (isBehind || !seen.has(node.getInputNode(slot))) node.disconnectInput(slot);
    }});
  }}
}}"""


@dataclass(frozen=True)
class Scene:
    """A picture, and a stroke to and fro over the thing in it, from left to right."""

    name: str
    middle: tuple[float, float]
    half: tuple[float, float]

    def drawing(self) -> str:
        (x, y), (width, height) = self.middle, self.half
        steps = [step / 30 - 1 for step in range(61)]
        heights = [math.sin(2 * math.pi * (step + 1)) for step in steps]
        return drawing(
            (round(x + width * step, 4), round(y + height * up, 4))
            for step, up in zip(steps, heights, strict=True)
        )


COFFEE = Scene("coffee.png", (0.485, 0.3), (0.115, 0.16))
CAKE = Scene("cake.png", (0.7, 0.36), (0.17, 0.1))
SMALL_CAKE = dataclasses.replace(CAKE, name="small-cake.png")

Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class View:
    """Some nodes of a shipped workflow after a run, moved next to one another."""

    workflow: str
    scene: Scene
    boxes: Mapping[str, Box]  # by the type of the node
    preview: tuple[str, Box] | None = None  # of the first output of this type of node
    loader: tuple[str, Box, str] | None = None  # one more: its type, and the input that it feeds
    runs: bool = True
    until: str | None = None  # runs up to this type of node: what follows needs other models
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # by the type of the node

    @property
    def kinds(self) -> list[str]:
        """The types of the nodes that are shown."""
        more = [PREVIEW] if self.preview else []
        return [*self.boxes, *more, *([self.loader[0]] if self.loader else [])]


VIEWS = {
    "drawing-vue.png": View(
        "scribble_to_sd_inpainting",
        COFFEE,
        {"FlexEditFreeShapeMask": (0, 0, 380, 300)},
        runs=False,
    ),
    "reply.png": View(
        "edit_one_picture",
        CAKE,
        {"FlexEditFreeShapeMask": (0, 0, 340, 300), "FlexEditMaskInterpreter": (460, 0, 360, 300)},
        until="FlexEditMaskInterpreter",
    ),
    "resolver.png": View(
        "scribble_to_sd_inpainting",
        COFFEE,
        {"FlexEditFreeShapeMask": (0, 0, 380, 300), "FlexEditResolveMask": (460, 0, 380, 320)},
        until="FlexEditResolveMask",
        values={"FlexEditResolveMask": ("classic", 1, True, 64, 0, 0)},
    ),
    "loader.png": View(
        "edit_one_picture",
        SMALL_CAKE,
        {
            "FlexEditLoader": (0, 80, 280, 180),
            "FlexEditQFormerEmbed": (370, 0, 320, 60),
            "FlexEditMEAConditioning": (370, 210, 320, 140),
        },
        runs=False,
    ),
    "crop.png": View(
        "scribble_to_sd_inpainting",
        COFFEE,
        {"FlexEditResolveMask": (0, 0, 340, 320), "FlexEditCrop": (420, 0, 280, 130)},
        preview=("FlexEditCrop", (420, 210, 280, 290)),
        until=PREVIEW,
        values={"FlexEditCrop": (512, 1.5)},
    ),
    "qformer.png": View(
        "edit_one_picture",
        SMALL_CAKE,
        {
            "FlexEditMaskInterpreter": (0, 0, 320, 300),
            "FlexEditQFormerEmbed": (400, 0, 320, 60),
            "FlexEditMEAConditioning": (400, 140, 320, 140),
        },
        until="FlexEditMaskInterpreter",
    ),
    "mea.png": View(
        "edit_one_picture",
        SMALL_CAKE,
        {"FlexEditMEAConditioning": (0, 0, 320, 140), "FlexEditKSampler": (410, 0, 300, 330)},
        runs=False,
    ),
    "ksampler.png": View(
        "edit_one_picture",
        SMALL_CAKE,
        {"FlexEditKSampler": (0, 0, 320, 330), "VAEDecode": (400, 0, 260, 60)},
        preview=("VAEDecode", (400, 140, 260, 290)),
    ),
    "composite.png": View(
        "edit_one_picture",
        SMALL_CAKE,
        {
            "LoadImage": (0, 0, 230, 300),
            "FlexEditComposite": (300, 0, 300, 200),
            "SaveImage": (670, 0, 230, 300),
        },
    ),
    "painted.png": View(
        "what_does_my_scribble_mean",
        SMALL_CAKE,
        {
            "VAEDecode": (0, 0, 240, 60),
            "FlexEditReadPaintedMask": (310, 0, 280, 60),
            "MaskPreview": (310, 140, 280, 290),
        },
        preview=("VAEDecode", (0, 140, 240, 290)),
    ),
    "vllm-loader.png": View(
        "edit_one_picture",
        CAKE,
        {"FlexEditMaskInterpreter": (400, 0, 360, 300)},
        loader=("FlexEditVLLMLoader", (0, 0, 320, 90), "vllm"),
        runs=False,
        values={"FlexEditVLLMLoader": ("HuggingFaceTB/SmolVLM-Instruct",)},
    ),
    "expressive-instruction.png": View(
        "edit_one_picture",
        CAKE,
        {"FlexEditMaskInterpreter": (420, 0, 360, 300)},
        loader=("FlexEditExpressiveInstruction", (0, 0, 340, 160), "instruction"),
        runs=False,
        values={"FlexEditExpressiveInstruction": ("make it winter",)},
    ),
    "sam-loader.png": View(
        "scribble_to_sd_inpainting",
        COFFEE,
        {"FlexEditResolveMask": (380, 0, 340, 220)},
        loader=("FlexEditSAMLoader", (0, 0, 300, 90), "sam"),
        runs=False,
        values={
            "FlexEditSAMLoader": ("facebook/sam-vit-base",),
            "FlexEditResolveMask": ("sam", 1, True, 64, 0, 0),
        },
    ),
}
# Folders of models to choose from, as on many machines; nothing of them is read.
STOCK = {
    "LLM/HuggingFaceTB/SmolVLM-Instruct": {"model_type": "idefics3", "vision_config": {}},
    "sams/facebook/sam-vit-base": {"model_type": "sam"},
}
# What a node shows after a run.
SHOWN = {
    "FlexEditMaskInterpreter": "document.querySelector('.flexedit-card')?.checkVisibility()",
    "FlexEditResolveMask": "document.querySelector('.flexedit-badges')?.childElementCount",
}


def main() -> int:
    path = find_chromium()
    if path is None:
        print("No Chromium is installed.", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    look: dict[str, Any] = {"viewport": VIEWPORT, "device_scale_factor": SHARPNESS}
    with ComfyServer() as comfy, chromium(path, **look) as page:
        take(Editor(page, comfy), FOLDER)
    return 0


def take(editor: Editor, folder: Path, names: Iterable[str] = VIEWS) -> None:
    """Pictures, into a folder."""
    upload_scenes(editor.comfy)
    with stock_models(editor.comfy):
        for name in names:
            view = VIEWS[name]
            show(editor, view)
            editor.evaluate(UNTANGLE, view.kinds)
            for _ in range(2):  # what is shown may load once more
                wait_for_all(editor, view)
                editor.page.wait_for_timeout(1000)
            save(editor, folder / name, view.kinds)


def upload_scenes(comfy: ComfyServer) -> None:
    from skimage import data  # coffee: a photograph by Rachel Michetti, CC0

    comfy.upload_image(Image.fromarray(data.coffee()), COFFEE.name)
    for scene, size in ((CAKE, 256), (SMALL_CAKE, 64)):
        comfy.upload_image(Image.fromarray(held_out("remove", 6, size).scene), scene.name)


@contextlib.contextmanager
def stock_models(comfy: ComfyServer) -> Iterator[None]:
    """The page offers STOCK to choose from."""
    models = comfy.folder / "models"
    for name, config in STOCK.items():
        (models / name).mkdir(parents=True)
        (models / name / "config.json").write_text(json.dumps(config))
    yield
    for name in STOCK:
        shutil.rmtree((models / name).parent)


def show(editor: Editor, view: View) -> None:
    graph = arranged(workflows.browser_workflow(view.workflow), view)
    editor.open()  # of one page, Vue nodes show pictures in the first graph only
    editor.render("vue")
    editor.load(graph)
    editor.wait(f"app.graph.nodes.length === {len(graph['nodes'])}")
    if view.preview:
        source, box = view.preview
        editor.add(PREVIEW, box)
        editor.connect(source, PREVIEW, "images")
    if view.loader:
        kind, box, name = view.loader
        editor.add(kind, box, view.values[kind])
        editor.connect(kind, next(iter(view.boxes)), name)
    editor.evaluate(BRING, [view.kinds, MARGIN])  # what is not seen whole may lack its picture
    if view.runs:
        target = [editor.node(view.until, "String(node.id)")] if view.until else []
        ended = editor.queue(lambda: editor.evaluate(QUEUE, target))
        assert ended["status"]["status_str"] == "success", ended["status"]


def wait_for_all(editor: Editor, view: View) -> None:
    """Until everything that the nodes show is on the page."""
    if view.runs:
        editor.wait(f"({PICTURED})({json.dumps(view.kinds)})")
        for kind in SHOWN.keys() & view.boxes.keys():
            editor.wait(SHOWN[kind])
    if "FlexEditFreeShapeMask" in view.boxes:
        with Image.open(editor.comfy.folder / "input" / view.scene.name) as picture:
            editor.wait_for_picture(picture.width / picture.height)


def arranged(graph: dict[str, Any], view: View) -> dict[str, Any]:
    """The workflow with a view's scene and scribble; what is not in the view is far from it."""
    nodes = {node["type"]: node for node in graph["nodes"]}
    nodes["LoadImage"]["widgets_values"][0] = view.scene.name
    nodes["FlexEditFreeShapeMask"]["widgets_values"][-1] = view.scene.drawing()
    for kind in view.values.keys() & nodes.keys():
        nodes[kind]["widgets_values"] = list(view.values[kind])
    seen = {nodes[kind]["id"] for kind in view.boxes}
    sources = {origin for _, origin, _, target, *_ in graph["links"] if target in seen}
    for node in graph["nodes"]:
        node.pop("title", None)  # each is called as its page is
        node["properties"].pop("models", None)  # nor does the page ask for their files
        node["pos"] = [-FAR if node["id"] in sources else FAR, 0]
        values = node["widgets_values"]
        node["widgets_values"] = ["fixed" if one == "randomize" else one for one in values]
    for kind, (x, y, width, height) in view.boxes.items():
        nodes[kind] |= {"pos": [x, y], "size": [width, height]}
    return graph | {"groups": []}


def bounds(editor: Editor, kinds: Sequence[str]) -> dict[str, float]:
    """The part of the page with the nodes of these types, as playwright takes it."""
    left, top, right, bottom = editor.evaluate(BOUNDS, list(kinds))
    return {
        "x": left - MARGIN,
        "y": top - MARGIN,
        "width": right - left + 2 * MARGIN,
        "height": bottom - top + 2 * MARGIN,
    }


def save(editor: Editor, path: Path, kinds: Sequence[str]) -> None:
    """Writes what the page shows of the nodes of these types."""
    page = editor.page
    page.evaluate("app.canvas.deselectAll()")
    page.mouse.move(5, page.viewport_size["height"] - 5)
    page.add_style_tag(content=f"{OVERLAYS} {{ visibility: hidden !important; }}")
    editor.evaluate(BRING, [list(kinds), MARGIN])
    page.wait_for_timeout(500)  # fonts, and what moves by itself
    shot = Image.open(BytesIO(page.screenshot(clip=bounds(editor, kinds)))).convert("RGB")
    for percent in range(100, 40, -5):
        size = (shot.width * percent // 100, shot.height * percent // 100)
        smaller = shot.resize(size, Image.Resampling.LANCZOS)
        smaller.quantize(COLORS, kmeans=8).save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            break
    print(f"{path.name}: {size[0]} × {size[1]}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
