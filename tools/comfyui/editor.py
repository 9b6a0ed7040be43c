"""ComfyUI's page in a real Chromium, used as a person would: `Editor`."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from tools.comfyui.server import ComfyServer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE = 60_000  # milliseconds; a busy machine is slow
SCENE = (160, 120)  # width, height of the picture that Load Image shows
RENDERERS = ("classic", "vue")
REPORTS = ".p-dialog, [data-testid='error-overlay']"  # what says an error, in older and newer pages

# What the page itself asks for in vain on a machine without accounts, settings and Internet.
HARMLESS = ("user.css", "/api/userdata/", "/api/settings/", "/api/i18n")
HARMLESS += ("api.comfy.org", "huggingface.co", "Error fetching file size")
HARMLESS += ("graph that was never set up",)  # the minimap, as one opens a subgraph

# Whether our extension is set up: its style sheets are the last thing to arrive.
STYLED = """() => {
  const links = [...document.querySelectorAll("link[href*='/extensions/flexedit/']")];
  return links.length > 0 && links.every((link) => link.sheet);
}"""

Place = tuple[float, float]  # fractions of the picture


def find_chromium() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


class Editor:
    """One page, for the most part with LoadImage → FlexEditFreeShapeMask → SaveImage."""

    def __init__(self, page: Any, comfy: ComfyServer):
        self.page = page
        self.comfy = comfy
        self.errors: list[str] = []
        self._ids = itertools.count(10, 10)
        page.set_default_timeout(PATIENCE)
        page.on("dialog", lambda dialog: dialog.accept())  # "Leave the page?", with work unsaved
        page.on("pageerror", lambda error: self.errors.append(error.stack or str(error)))
        page.on("console", self._hear)
        comfy.upload_image(scene(), "scene.png")
        comfy.post("settings", json={"Comfy.TutorialCompleted": True})  # no welcome

    def _hear(self, message: Any) -> None:
        where = message.location.get("url", "")
        if message.type == "error" and not any(one in message.text + where for one in HARMLESS):
            self.errors.append(f"{message.text} {where}")

    def open(self) -> None:
        self.errors.clear()
        self.page.goto(f"http://{self.comfy.address}/")
        self.wait("window.app?.graph && LiteGraph.registered_node_types.FlexEditFreeShapeMask")
        self.wait("document.querySelector('.graph-canvas-container, #graph-canvas')")
        self.wait("app.extensionManager.workflow.activeWorkflow")  # else it comes over what we load
        self.until(lambda: bool(self._our_errors()) or self.evaluate(STYLED))
        assert not self._our_errors(), self._our_errors()
        self.errors.clear()  # what else the page says while it starts is not ours

    def _our_errors(self) -> list[str]:
        return [error for error in self.errors if "flexedit" in error.lower()]

    @property
    def version(self) -> tuple[int, ...]:
        """Of the page."""
        return tuple(map(int, self.evaluate("__COMFYUI_FRONTEND_VERSION__").split(".")))

    def wait(self, condition: str) -> None:
        self.page.wait_for_function(f"() => Boolean({condition})", timeout=3 * PATIENCE)

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def render(self, renderer: str) -> None:
        is_vue = renderer == "vue"
        self.evaluate("on => app.ui.settings.setSettingValue('Comfy.VueNodes.Enabled', on)", is_vue)
        self.wait(f"Boolean(LiteGraph.vueNodesMode) === {json.dumps(is_vue)}")

    # The graph

    def build(self, source: str = "LoadImage", *values: Any) -> None:
        """A new graph; `source` is the node that the picture comes from, with its values."""
        self.load(graph(self.next_id(), source, values or ("scene.png",)))
        self.wait_for_node()
        if source == "LoadImage":
            self.wait_for_picture()
        self.wait_for_layout()

    def next_id(self) -> int:
        """The id of a new graph's first node: Vue nodes of one graph never pass for another's."""
        return next(self._ids)

    def load(self, workflow: Mapping[str, Any]) -> None:
        """Opens a workflow in the tab that is open."""
        self.page.keyboard.press("Escape")
        self.evaluate(
            """(graph) => {
              const { activeWorkflow } = app.extensionManager.workflow;
              return app.loadGraphData(graph, true, false, activeWorkflow);
            }""",
            workflow,
        )
        self.evaluate("Object.assign(app.canvas.ds, { scale: 1, offset: [0, 0] })")
        self.evaluate("app.canvas.setDirty(true, true)")

    def wait_for_node(self) -> None:
        """Until the drawing is on the page."""
        self.wait(
            "app.graph.findNodesByType('FlexEditFreeShapeMask')[0]?.widgets.at(-1)"
            ".element.checkVisibility()"
        )

    def wait_for_layout(self) -> None:
        """Until the nodes have found their places."""
        places: list[Any] = []

        def is_still() -> bool:
            time.sleep(0.1)
            places.append(self.box())
            return len(places) > 3 and len(set(places[-4:])) == 1

        self.until(is_still)

    def wait_for_picture(self, aspect: float = SCENE[0] / SCENE[1]) -> None:
        self.wait(
            "Math.abs(document.querySelector('.flexedit-drawing').style"
            f".getPropertyValue('--flexedit-aspect') - {aspect}) < 1e-3"
        )

    def add(self, kind: str, box: Sequence[float], values: Sequence[Any] = ()) -> None:
        """A new node at left, top (, width, height), with the values of its first widgets."""
        self.evaluate(
            """([kind, [x, y, ...size], values]) => {
              const node = LiteGraph.createNode(kind);
              node.pos = [x, y];
              if (size.length) node.size = size;
              values.forEach((value, index) => (node.widgets[index].value = value));
              app.graph.add(node);
            }""",
            [kind, list(box), list(values)],
        )

    def connect(self, source: str, target: str, name: str) -> None:
        """The first output of the newest node of a kind to an input of that of another."""
        self.evaluate(
            """(ends) => {
              const find = (kind) => app.graph.findNodesByType(kind).at(-1);
              const [source, target] = ends.slice(0, 2).map(find);
              source.connect(0, target, target.inputs.findIndex((it) => it.name === ends[2]));
            }""",
            [source, target, name],
        )

    def node(self, kind: str, expression: str, argument: Any = None, index: int = 0) -> Any:
        """A JavaScript expression of `node`, one of this kind."""
        find = f"app.graph.findNodesByType('{kind}')[{index}]"
        return self.evaluate(
            f"(argument) => {{ const node = {find}; return {expression} }}", argument
        )

    def mask_node(self, expression: str, argument: Any = None, index: int = 0) -> Any:
        return self.node("FlexEditFreeShapeMask", expression, argument, index)

    def text(self, index: int = 0) -> str:
        return self.mask_node("node.widgets.find((it) => it.name === 'strokes').value", index=index)

    def set_text(self, text: str) -> None:
        self.mask_node("node.widgets.find((it) => it.name === 'strokes').value = argument", text)

    def strokes(self, index: int = 0) -> list[dict[str, Any]]:
        text = self.text(index)
        return json.loads(text)["strokes"] if text else []

    def choose_kind(self, kind: str) -> None:
        self.mask_node("node.widgets[0].value = argument", kind)
        self.mask_node("node.widgets[0].callback(argument)", kind)

    def shown_widgets(self) -> list[str]:
        """The names of the widgets that a person sees, from top to bottom."""
        if self.evaluate("LiteGraph.vueNodesMode"):
            return self.mask_node(
                """[...document.querySelectorAll(
                  `.lg-node[data-node-id='${node.id}'] .lg-node-widget [data-slot-key]`,
                )].filter((it) => it.checkVisibility()).map(
                  ({ dataset }) => node.inputs[dataset.slotKey.match(/\\d+$/)].widget.name,
                )"""
            )
        return self.mask_node(
            "node.widgets.filter((it) => node.isWidgetVisible(it)).map((it) => it.name)"
        )

    def holds_its_drawing(self) -> bool:
        """Whether the mask's node is as high as its drawing reaches."""
        return self.mask_node(
            """(() => {
              const bottom = (element) => element.getBoundingClientRect().bottom;
              const drawing = bottom(node.widgets.at(-1).element);
              if (LiteGraph.vueNodesMode)
                return drawing <= bottom(document.querySelector(`[data-node-id='${node.id}']`));
              const { canvas, ds } = app.canvas;
              const height = (node.pos[1] + node.size[1] + ds.offset[1]) * ds.scale;
              return drawing <= canvas.getBoundingClientRect().top + height;
            })()"""
        )

    def save_draft(self, text: str) -> None:
        """Until the page has put the workflow, with this text in it, where a reload finds it."""
        self.wait(
            "[localStorage, sessionStorage].some((it) => Object.keys(it).some("
            r"(key) => it.getItem(key).replaceAll('\\', '')"  # JSON, within JSON or twice within
            f".includes({json.dumps(text)})))"
        )

    def undo(self) -> None:
        """ComfyUI's own undo. It notes a change some frames after it happened, and has no event."""
        self.page.wait_for_timeout(500)
        self.press("Control+z")

    def until(self, holds: Callable[[], bool], seconds: float = PATIENCE / 1000) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.05)

    # Drawing

    @property
    def stage(self) -> Any:
        return self.page.locator(".flexedit-stage").first

    def caption(self) -> str:
        """What is written on the picture."""
        return self.page.locator(".flexedit-drawing:visible .flexedit-caption").text_content()

    def box(self) -> tuple[float, float, float, float]:
        """Where the whole picture is on the page: left, top, width, height."""
        stage = self.page.locator(".flexedit-stage canvas").first.bounding_box()
        width, height = SCENE
        scale = min(stage["width"] / width, stage["height"] / height)
        left = stage["x"] + (stage["width"] - scale * width) / 2
        return (
            left,
            stage["y"] + (stage["height"] - scale * height) / 2,
            scale * width,
            scale * height,
        )

    def place(self, where: Place) -> Place:
        left, top, width, height = self.box()
        return left + where[0] * width, top + where[1] * height

    def drag(self, *path: Place, button: str = "left") -> None:
        mouse = self.page.mouse
        first, *rest = [self.place(where) for where in path]
        mouse.move(*first)
        mouse.down(button=button)
        for where in rest:
            mouse.move(*where, steps=6)
        mouse.up(button=button)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def click(self, title: str) -> None:
        self.page.locator(f".flexedit-drawing:visible input[aria-label^='{title}']").first.click()

    def click_graph(self) -> None:
        """Clicks where there is nothing but the graph."""
        self.page.mouse.click(
            *self.evaluate(
                """() => {
                  const isEmpty = ([x, y]) =>
                    document.elementFromPoint(x, y).id === "graph-canvas" &&
                    !app.graph.getNodeOnPos(...app.canvas.convertEventToCanvasOffset(
                      { clientX: x, clientY: y }));
                  for (let y = 850; y > 100; y -= 50) {
                    for (let x = 1000; x > 100; x -= 50) if (isEmpty([x, y])) return [x, y];
                  }
                }"""
            )
        )
        self.wait("app.canvas.selectedItems.size === 0")

    # Running

    def queue(self, start: Callable[[], object] | None = None) -> dict[str, Any]:
        """Queues the graph, by a click on nothing unless `start` does → the run's history."""
        before = set(self.comfy.get("history").json())
        if start:
            start()
        else:
            self.evaluate("app.queuePrompt(0, 1)")
        new: dict[str, Any] = {}

        def is_done() -> bool:
            history = self.comfy.get("history").json()
            new.update({key: run for key, run in history.items() if key not in before})
            return bool(new)

        self.until(is_done)
        return next(iter(new.values()))

    def close_report(self) -> None:
        """Waits for what the page says about an error, and closes it."""
        report = self.page.locator(REPORTS).first
        report.wait_for()
        if (button := self.page.get_by_test_id("error-overlay-dismiss")).count():  # newer pages
            button.click()
        else:
            self.page.keyboard.press("Escape")
        report.wait_for(state="detached")

    def run(self) -> np.ndarray:
        """Queues the graph → the mask that arrives, (H, W) bool."""
        outputs = self.queue()["outputs"]
        saved = next(one for one in outputs.values() if "images" in one)
        return np.asarray(self.comfy.fetch_image(saved["images"][0]).convert("L")) > 127


@dataclass(frozen=True)
class Node:
    """A node of a `workflow`; `inputs` are connected: name → (number of the node, output, type)."""

    kind: str
    place: Place
    size: tuple[int, int]
    values: Sequence[Any] = ()
    inputs: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)


def workflow(nodes: Sequence[Node], first: int = 1) -> dict[str, Any]:
    """As the page saves it; `first` is the id of the first node."""
    links: list[list[Any]] = []
    saved: list[dict[str, Any]] = []
    for order, node in enumerate(nodes):
        slots = []
        for slot, (name, (source, output, kind)) in enumerate(node.inputs.items()):
            key = len(links) + 1
            links.append([key, first + source, output, first + order, slot, kind])
            slots.append({"name": name, "type": kind, "link": key})
        saved.append(
            {
                "id": first + order,
                "type": node.kind,
                "pos": node.place,
                "size": node.size,
                "flags": {},
                "order": order,
                "mode": 0,
                "properties": {},
                "inputs": slots,
                "outputs": [],
                "widgets_values": list(node.values),
            }
        )
    for key, source, output, _, _, kind in links:
        outputs = saved[source - first]["outputs"]
        while len(outputs) <= output:
            outputs.append({"name": "", "type": "*", "links": []})
        outputs[output] |= {"type": kind}
        outputs[output]["links"].append(key)
    return {
        "last_node_id": first + len(nodes) - 1,
        "last_link_id": len(links),
        "nodes": saved,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def graph(first: int, source: str, values: Sequence[Any]) -> dict[str, Any]:
    """source → FlexEditFreeShapeMask → MaskToImage → SaveImage"""
    nodes = (
        Node(source, (60, 120), (270, 314), values),
        Node("FlexEditFreeShapeMask", (400, 120), (360, 420), (), {"image": (0, 0, "IMAGE")}),
        Node("MaskToImage", (860, 120), (210, 26), (), {"mask": (1, 0, "MASK")}),
        Node("SaveImage", (860, 240), (270, 58), (), {"images": (2, 0, "IMAGE")}),
    )
    return workflow(nodes, first)


def scene() -> Image.Image:
    """A picture of which every quarter is of another colour."""
    width, height = SCENE
    quarters = np.array([[(200, 60, 60), (60, 160, 60)], [(60, 90, 200), (220, 200, 90)]], np.uint8)
    return Image.fromarray(quarters.repeat(height // 2, 0).repeat(width // 2, 1))


@contextlib.contextmanager
def launched(path: str) -> Iterator[Any]:
    """A browser; a process can have one at a time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def chromium(path: str, **context: Any) -> Iterator[Any]:
    """A page of a browser of its own; `context` as playwright's new_page takes it."""
    with launched(path) as browser:
        yield new_page(browser, **context)


def new_page(browser: Any, **context: Any) -> Any:
    return browser.new_page(**{"viewport": {"width": 1400, "height": 900}, **context})


def swipes(page: Any, fingers: Sequence[Sequence[Place]]) -> None:
    """Fingers that go down together, move along their paths of equal length and go up together."""
    session = page.context.new_cdp_session(page)

    def send(kind: str, places: Sequence[Place]) -> None:
        points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    first, *rest = zip(*fingers, strict=True)
    send("touchStart", first)
    for places in rest:
        send("touchMove", places)
    send("touchEnd", [])
    session.detach()
