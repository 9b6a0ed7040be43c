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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tools import workflows
from tools.comfyui.editor import Editor, Node, chromium, find_chromium, workflow
from tools.comfyui.fetch import PACK
from tools.comfyui.server import ComfyServer
from tools.demo import held_out

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
SMALL_CAKE = Scene("small-cake.png", CAKE.middle, CAKE.half, CAKE.width)

Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class View:
    """Some nodes of a shipped workflow after a run, moved next to one another."""

    workflow: str
    scene: Scene
    boxes: Mapping[str, Box]  # by the type of the node
    preview: tuple[str, Box] | None = None  # of the first output of this type of node
    stops: bool = False  # there: what follows needs models that are not here
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # by the type of the node


VIEWS = {
    "loader.png": View(
        "edit_one_picture",
        SMALL_CAKE,
        {
            "FlexEditLoader": (0, 80, 280, 180),
            "FlexEditQFormerEmbed": (370, 0, 320, 60),
            "FlexEditMEAConditioning": (370, 210, 320, 140),
        },
    ),
    "crop.png": View(
        "scribble_to_sd_inpainting",
        COFFEE,
        {"FlexEditResolveMask": (0, 0, 340, 320), "FlexEditCrop": (420, 0, 280, 130)},
        preview=("FlexEditCrop", (420, 210, 280, 290)),
        stops=True,
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
    ),
    "mea.png": View(
        "edit_one_picture",
        SMALL_CAKE,
        {"FlexEditMEAConditioning": (0, 0, 320, 140), "FlexEditKSampler": (410, 0, 300, 330)},
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
}
# Folders of models to choose from, as on many machines; nothing of them is read.
STOCK = {
    "LLM/HuggingFaceTB/SmolVLM-Instruct": {"model_type": "idefics3", "vision_config": {}},
    "sams/facebook/sam-vit-base": {"model_type": "sam"},
}


def main() -> int:
    path = find_chromium()
    if path is None:
        print("No Chromium is installed.", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    look: dict[str, Any] = {"viewport": VIEWPORT, "device_scale_factor": SHARPNESS}
    with ComfyServer() as comfy, chromium(path, **look) as page:
        editor = Editor(page, comfy)
        editor.open()
        take(editor, FOLDER)
    return 0


def take(editor: Editor, folder: Path) -> None:
    """Every picture, into a folder."""
    upload_scenes(editor.comfy)
    editor.evaluate("app.refreshComboInNodes()")
    editor.render("vue")
    draw(editor, folder / "drawing-vue.png")
    reply(editor, folder / "reply.png")
    resolve(editor, folder / "resolver.png")
    for name, view in VIEWS.items():
        run(editor, folder / name, view)
    with stock_models(editor):
        open_vllm(editor, folder / "vllm-loader.png")
        open_sam(editor, folder / "sam-loader.png")


def upload_scenes(comfy: ComfyServer) -> None:
    from skimage import data  # coffee: a photograph by Rachel Michetti, CC0

    comfy.upload_image(Image.fromarray(data.coffee()), COFFEE.name)
    for scene, size in ((CAKE, 256), (SMALL_CAKE, 64)):
        comfy.upload_image(Image.fromarray(held_out("remove", 6, size).scene), scene.name)


def draw(editor: Editor, path: Path) -> None:
    editor.load(workflow(scribbled(COFFEE), editor.next_id()))
    editor.wait_for_node()
    editor.wait_for_picture(3 / 2)
    save(editor, path, ["FlexEditFreeShapeMask"])


def reply(editor: Editor, path: Path) -> None:
    nodes = (
        *scribbled(CAKE),
        Node("FlexEditLoader", (100, 900), (280, 180), ("flexedit-mini", "auto")),
        interpreter((920, 200), output=3),
    )
    editor.load(workflow(nodes, editor.next_id()))
    editor.wait_for_node()
    editor.queue()
    editor.wait("document.querySelector('.flexedit-card')?.checkVisibility()")
    save(editor, path, ["FlexEditFreeShapeMask", "FlexEditMaskInterpreter"])


def resolve(editor: Editor, path: Path) -> None:
    inputs = {"scene": (0, 0, "IMAGE"), "mask": (1, 0, "MASK")}
    nodes = (
        *scribbled(COFFEE),
        Node("FlexEditResolveMask", (920, 200), (380, 320), (), inputs),
    )
    editor.load(workflow(nodes, editor.next_id()))
    editor.wait_for_node()
    editor.queue()
    editor.wait("document.querySelector('.flexedit-badges')?.childElementCount")
    save(editor, path, ["FlexEditFreeShapeMask", "FlexEditResolveMask"])


def run(editor: Editor, path: Path, view: View) -> None:
    shown = arranged(workflows.browser_workflow(view.workflow), view, 10 * editor.next_id())
    kinds = [*view.boxes, *([PREVIEW] if view.preview else [])]
    editor.open()  # of one page, Vue nodes show pictures in the first graph only
    editor.load(shown)
    editor.wait(f"app.graph.nodes.length === {len(shown['nodes'])}")
    editor.evaluate(BRING, [kinds, MARGIN])  # what is not seen whole may stay without its picture
    target = [str(shown["last_node_id"])] if view.stops else []
    ended = editor.queue(lambda: editor.evaluate(QUEUE, target))
    assert ended["status"]["status_str"] == "success", ended["status"]
    editor.wait(f"({PICTURED})({json.dumps(kinds)})")
    editor.evaluate(UNTANGLE, kinds)
    save(editor, path, kinds)


def open_vllm(editor: Editor, path: Path) -> None:
    model = Node("FlexEditVLLMLoader", (100, 200), (320, 90), ("HuggingFaceTB/SmolVLM-Instruct",))
    nodes = (*map(far, scribbled(CAKE)), model, interpreter((500, 200), output=0))
    editor.load(workflow(nodes, editor.next_id()))
    save(editor, path, ["FlexEditVLLMLoader", "FlexEditMaskInterpreter"])


def open_sam(editor: Editor, path: Path) -> None:
    inputs = {"scene": (0, 0, "IMAGE"), "mask": (1, 0, "MASK"), "sam": (2, 0, "FLEXEDIT_SAM")}
    nodes = (
        *map(far, scribbled(COFFEE)),
        Node("FlexEditSAMLoader", (100, 200), (300, 90), ("facebook/sam-vit-base",)),
        Node("FlexEditResolveMask", (480, 200), (340, 220), ("sam",), inputs),
    )
    editor.load(workflow(nodes, editor.next_id()))
    save(editor, path, ["FlexEditSAMLoader", "FlexEditResolveMask"])


def far(node: Node) -> Node:
    """The node, out of sight."""
    return dataclasses.replace(node, place=(-FAR, node.place[1]))


@contextlib.contextmanager
def stock_models(editor: Editor) -> Iterator[None]:
    """The page offers STOCK to choose from."""
    models = editor.comfy.folder / "models"
    for name, config in STOCK.items():
        (models / name).mkdir(parents=True)
        (models / name / "config.json").write_text(json.dumps(config))
    editor.evaluate("app.refreshComboInNodes()")
    yield
    for name in STOCK:
        shutil.rmtree((models / name).parent)


def interpreter(place: tuple[int, int], output: int) -> Node:
    """It reads what `scribbled` gives; `output` of the third node is the model."""
    inputs = {"scene": (0, 0, "IMAGE"), "mask": (1, 0, "MASK")}
    inputs["vllm"] = (2, output, "FLEXEDIT_VLLM")
    values = ("remove this", "edit", "generate")
    return Node("FlexEditMaskInterpreter", place, (360, 300), values, inputs)


def scribbled(scene: Scene) -> tuple[Node, Node]:
    """LoadImage → FlexEditFreeShapeMask with a scribble on it"""
    values = ("drawn", 0.5, 0.5, 0.4, 0.4, 0, 0.06, 0, "fixed", 512, 512, drawing(scene))
    image = {"image": (0, 0, "IMAGE")}
    return (
        Node("LoadImage", (100, 200), (280, 330), (scene.name,)),
        Node("FlexEditFreeShapeMask", (460, 200), (scene.width, 300), values, image),
    )


def drawing(scene: Scene) -> str:
    stroke = {"tool": "brush", "width": 0.06, "points": scene.scribble}
    return json.dumps({"version": 1, "strokes": [stroke]})


def arranged(graph: dict[str, Any], view: View, first: int) -> dict[str, Any]:
    """The workflow with a view's scene and scribble; what is not in the view is far from it.

    `first` is added to the ids of its nodes.
    """
    nodes = {node["type"]: node for node in graph["nodes"]}
    nodes["LoadImage"]["widgets_values"][0] = view.scene.name
    nodes["FlexEditFreeShapeMask"]["widgets_values"][-1] = drawing(view.scene)
    for kind, values in view.values.items():
        nodes[kind]["widgets_values"] = list(values)
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
    if view.preview:
        kind, box = view.preview
        add_preview(graph, nodes[kind], box)
    for node in graph["nodes"]:
        node["id"] += first
    for link in graph["links"]:
        link[1] += first
        link[3] += first
    return graph | {"groups": [], "last_node_id": graph["last_node_id"] + first}


def add_preview(graph: dict[str, Any], source: Mapping[str, Any], box: Box) -> None:
    """Shows the first output of a node."""
    node, link = graph["last_node_id"] + 1, graph["last_link_id"] + 1
    graph |= {"last_node_id": node, "last_link_id": link}
    graph["links"].append([link, source["id"], 0, node, 0, "IMAGE"])
    source["outputs"][0]["links"].append(link)
    graph["nodes"].append(
        {
            "id": node,
            "type": PREVIEW,
            "pos": list(box[:2]),
            "size": list(box[2:]),
            "flags": {},
            "order": node,
            "mode": 0,
            "properties": {},
            "inputs": [{"name": "images", "type": "IMAGE", "link": link}],
            "outputs": [],
            "widgets_values": [],
        }
    )


def save(editor: Editor, path: Path, kinds: Sequence[str]) -> None:
    """Writes what the page shows of the nodes of these types."""
    page = editor.page
    page.evaluate("app.canvas.deselectAll()")
    page.mouse.move(5, page.viewport_size["height"] - 5)
    page.add_style_tag(content=f"{OVERLAYS} {{ visibility: hidden !important; }}")
    editor.evaluate(BRING, [list(kinds), MARGIN])
    page.wait_for_timeout(1500)  # fonts, images and what moves by itself
    left, top, right, bottom = editor.evaluate(BOUNDS, list(kinds))
    clip = {
        "x": left - MARGIN,
        "y": top - MARGIN,
        "width": right - left + 2 * MARGIN,
        "height": bottom - top + 2 * MARGIN,
    }
    shot = Image.open(BytesIO(page.screenshot(clip=clip))).convert("RGB")
    for percent in range(100, 40, -5):
        size = (shot.width * percent // 100, shot.height * percent // 100)
        smaller = shot.resize(size, Image.Resampling.LANCZOS)
        smaller.quantize(COLORS, kmeans=8).save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            break
    print(f"{path.name}: {size[0]} × {size[1]}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
