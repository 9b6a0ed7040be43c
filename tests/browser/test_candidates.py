"""After a run the resolver shows what the scribble may mean, and one picks it there."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tools.comfyui.editor import SCENE, Editor, Node, Place, workflow
from tools.workflows import drawing

KIND = "FlexEditResolveMask"
ACROSS: list[Place] = [(0.2, 0.4), (0.4, 0.5), (0.6, 0.5), (0.8, 0.4)]  # both discs
WITHIN: list[Place] = [(0.2, 0.4), (0.35, 0.6)]
GREY, RED, BLUE = (120, 125, 130), (200, 60, 60), (60, 90, 200)
MARK = (255, 45, 120)


def graph(first: int, path: list[Place]) -> dict[str, Any]:
    """LoadImage → FlexEditFreeShapeMask with a stroke → FlexEditResolveMask → SaveImage"""
    values = ("drawn", 0.5, 0.5, 0.4, 0.4, 0, 0.06, 0, "fixed", 512, 512, drawing(path, 0.1))
    inputs = {"scene": (0, 0, "IMAGE"), "mask": (1, 0, "MASK")}
    nodes = (
        Node("LoadImage", (60, 120), (270, 314), ("discs.png",)),
        Node("FlexEditFreeShapeMask", (360, 120), (360, 420), values, {"image": (0, 0, "IMAGE")}),
        Node(KIND, (760, 120), (300, 320), (), inputs),
        Node("MaskToImage", (1100, 120), (210, 26), (), {"mask": (2, 0, "MASK")}),
        Node("SaveImage", (1100, 240), (210, 58), (), {"images": (3, 0, "IMAGE")}),
    )
    return workflow(nodes, first)


def discs() -> Image.Image:
    picture = Image.new("RGB", SCENE, GREY)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((15, 30, 75, 90), fill=RED)
    draw.ellipse((85, 30, 145, 90), fill=BLUE)
    return picture


@dataclass
class Run:
    """What a run sent to the page, and the mask that it put out."""

    chosen: int
    ambiguous: bool
    confidences: list[float]
    masks: np.ndarray  # (candidates, H, W) bool
    mask: np.ndarray  # (H, W) bool

    def place(self, *candidates: int) -> Place:
        """The middle of a pixel that these candidates cover, from 1, and no other does."""
        wanted = np.isin(np.arange(1, len(self.masks) + 1), candidates)
        rows, columns = np.nonzero((self.masks == wanted[:, None, None]).all(0))
        assert len(rows), f"no pixel is only of {candidates}"
        middle = len(rows) // 2
        height, width = self.masks.shape[1:]
        return (columns[middle] + 0.5) / width, (rows[middle] + 0.5) / height


class Resolver:
    """The node on the page."""

    def __init__(self, editor: Editor):
        self.editor = editor
        self.buttons = editor.page.locator(".flexedit-candidate:visible")

    def load(self, path: list[Place]) -> None:
        self.editor.load(graph(self.editor.next_id(), path))
        self.editor.wait_for_node()

    def run(self) -> Run:
        outputs = self.editor.queue()["outputs"].values()
        (sent,) = next(one for one in outputs if "flexedit_resolution" in one)[
            "flexedit_resolution"
        ]
        (saved,) = next(one for one in outputs if "images" in one)["images"]
        fetch = self.editor.comfy.fetch_image
        files = [one["mask"] for one in sent["candidates"]]
        self.editor.until(lambda: self.shown_masks() == files)
        masks = np.stack([np.asarray(fetch(file).getchannel("A")) > 127 for file in files])
        confidences = [one["confidence"] for one in sent["candidates"]]
        mask = np.asarray(fetch(saved).convert("L")) > 127
        self.editor.until(lambda: self.num_badges() == len(masks))
        return Run(sent["chosen"], sent["ambiguous"], confidences, masks, mask)

    def shown_masks(self) -> list[dict[str, str]]:
        """The files of the last run that the page was told of."""
        return self.editor.node(
            KIND,
            """app.nodeOutputs[node.id]?.flexedit_resolution[0]
                .candidates.map((candidate) => candidate.mask) ?? []""",
        )

    def num_badges(self) -> int:
        return self.editor.page.locator(".flexedit-badges .flexedit-number:visible").count()

    def value(self, name: str) -> int:
        return self.editor.node(KIND, f"node.widgets.find((it) => it.name === '{name}').value")

    def candidate(self) -> int:
        return self.value("candidate")

    def picked(self) -> list[int]:
        pressed = self.buttons.evaluate_all("all => all.map((it) => it.ariaPressed === 'true')")
        return [index + 1 for index, is_pressed in enumerate(pressed) if is_pressed]

    def status(self) -> str:
        shown = self.editor.page.locator(".flexedit-resolution:visible")
        return shown.locator(".flexedit-status").text_content()

    def click(self, place: Place) -> None:
        box = self.editor.page.locator(".flexedit-scene:visible").bounding_box()
        x, y = box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"]
        self.editor.page.mouse.click(x, y)

    def color(self, place: Place) -> list[int]:
        return self.editor.page.locator(".flexedit-scene:visible canvas").evaluate(
            """(canvas, [x, y]) => {
              const place = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
              return [...canvas.getContext("2d").getImageData(...place, 1, 1).data].slice(0, 3);
            }""",
            place,
        )


@pytest.fixture
def resolver(rendered: Editor) -> Resolver:
    rendered.comfy.upload_image(discs(), "discs.png")
    return Resolver(rendered)


def test_the_candidates_show_with_their_confidence(resolver):
    resolver.load(ACROSS)
    assert resolver.num_badges() == 0 and resolver.buttons.count() == 0
    run = resolver.run()
    assert len(run.masks) > 1
    texts = [
        f"{number}{round(confidence * 100)} %"
        for number, confidence in enumerate(run.confidences, 1)
    ]
    assert resolver.buttons.all_text_contents() == texts
    assert resolver.picked() == [run.chosen] == [1]


def test_the_picked_candidate_is_coloured_where_it_is(resolver):
    resolver.load(WITHIN)
    (mask,) = resolver.run().masks
    box = resolver.editor.page.locator(".flexedit-scene:visible").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(SCENE[0] / SCENE[1], rel=0.02)
    assert box["width"] > 250  # as wide as the node
    assert mask[60, 45] and not mask[60, 115]
    marked = np.add(np.multiply(0.55, RED), np.multiply(0.45, MARK))
    resolver.editor.until(lambda: np.allclose(resolver.color((0.28, 0.5)), marked, atol=4))
    assert np.allclose(resolver.color((0.72, 0.5)), BLUE, atol=3)
    assert np.allclose(resolver.color((0.02, 0.02)), GREY, atol=3)


def test_an_ambiguous_scribble_shows_both_and_asks_which_is_meant(resolver):
    resolver.load(ACROSS)
    assert resolver.run().ambiguous
    assert resolver.status().startswith("This seems to mean two things")
    for place, color in (((0.28, 0.5), RED), ((0.72, 0.5), BLUE)):
        assert not np.allclose(resolver.color(place), color, atol=20)
    resolver.load(WITHIN)
    assert not resolver.run().ambiguous
    assert resolver.status() == ""


def test_a_click_picks_what_the_next_run_puts_out(resolver):
    resolver.load(ACROSS)
    run = resolver.run()
    assert np.array_equal(run.mask, run.masks[0])
    resolver.click(run.place(2, 3))
    assert resolver.candidate() == 2 and resolver.picked() == [2]
    assert resolver.status() == "Run again to use candidate 2."
    again = resolver.run()
    assert again.chosen == 2 and np.array_equal(again.mask, run.masks[1])
    assert resolver.picked() == [2]
    assert not resolver.status().startswith("Run again")


def test_a_pick_for_another_scribble_is_told_until_it_is_meant_here_too(resolver):
    resolver.load(ACROSS)
    resolver.click(resolver.run().place(2, 3))
    resolver.run()
    assert not resolver.status().startswith("Candidate 2")
    resolver.editor.set_text(drawing([(0.2, 0.6), (0.5, 0.4), (0.8, 0.6)], 0.1))
    assert resolver.run().chosen == 2
    told = "Candidate 2 was picked for something else. Here the best is 1."
    resolver.editor.until(lambda: resolver.status() == told)
    resolver.editor.node(KIND, "(node.widgets.find((it) => it.name === 'grow').value = 1)")
    undo_one_step(resolver.editor)  # makes the node anew
    resolver.editor.until(lambda: resolver.value("grow") == 0 and resolver.status() == told)
    resolver.buttons.nth(1).click()
    resolver.editor.until(lambda: resolver.status() != told)
    assert resolver.candidate() == 2


def test_clicks_where_candidates_overlap_pick_them_in_turn(resolver):
    resolver.load(ACROSS)
    place = resolver.run().place(2, 3)
    picked = []
    for _ in range(3):
        resolver.click(place)
        picked += resolver.picked()
    assert picked == [2, 3, 2]  # the smaller first


def test_comfyui_undoes_a_pick(resolver):
    resolver.load(ACROSS)
    run = resolver.run()
    resolver.click(run.place(2, 3))
    assert resolver.candidate() == 2
    undo_one_step(resolver.editor)
    resolver.editor.until(lambda: resolver.candidate() == 1)
    resolver.editor.until(lambda: resolver.picked() == [1])
    resolver.editor.until(lambda: resolver.num_badges() == len(run.masks))
    resolver.click(run.place(2, 3))
    assert resolver.candidate() == 2
    resolver.run()
    undo_one_step(resolver.editor)
    resolver.editor.until(lambda: resolver.candidate() == 1)


def undo_one_step(editor):
    """Lets ComfyUI look for changes before: if the node has taken another size since the last one,
    that is what it undoes.
    """
    editor.page.wait_for_timeout(500)  # a node takes its size some frames later
    editor.press("Shift")
    editor.undo()


def test_the_keyboard_and_the_number_on_the_node_pick_too(resolver):
    resolver.load(ACROSS)
    resolver.run()
    resolver.buttons.first.focus()
    resolver.editor.press("Tab", "Enter")
    assert resolver.candidate() == 2 and resolver.picked() == [2]
    resolver.editor.press("Shift+Tab", "Space")
    assert resolver.candidate() == 1
    for change in ("callback(argument)", "value = argument"):
        find = "node.widgets.find((it) => it.name === 'candidate')"
        resolver.editor.node(KIND, f"({find}.{change})", 2)
    resolver.editor.until(lambda: resolver.picked() == [2])


def test_a_candidate_from_another_node_is_not_picked_here(resolver):
    resolver.load(ACROSS)
    run = resolver.run()
    resolver.editor.add("PrimitiveInt", (60, 600), [1])
    resolver.editor.connect("PrimitiveInt", KIND, "candidate")
    resolver.click(run.place(2, 3))
    assert resolver.candidate() == 1
    assert resolver.buttons.evaluate_all("all => all.every((it) => it.disabled)")


def test_a_reloaded_page_shows_them_after_the_next_run_without_computing_anew(resolver):
    resolver.load(ACROSS)
    title = f"Draft {resolver.editor.next_id()}"
    resolver.editor.node(KIND, "(node.title = argument)", title)
    before = resolver.run()
    resolver.editor.save_draft(title)
    resolver.editor.open()
    assert resolver.num_badges() == 0
    assert np.array_equal(resolver.run().masks, before.masks)


def test_they_show_inside_a_subgraph(resolver):
    resolver.load(ACROSS)
    resolver.editor.node(KIND, "(app.graph.convertToSubgraph(new Set([node])), 0)")
    resolver.editor.queue()
    resolver.editor.evaluate(
        """() => {
          const outer = app.graph.nodes.find((node) => node.subgraph);
          app.canvas.openSubgraph(outer.subgraph, outer);
        }"""
    )
    resolver.editor.until(lambda: resolver.num_badges() > 1)
    resolver.editor.evaluate("app.canvas.setGraph(app.graph)")


def test_what_is_shown_is_no_part_of_the_workflow(resolver):
    resolver.load(WITHIN)
    before = resolver.editor.node(KIND, "node.serialize().widgets_values")
    resolver.run()
    assert resolver.editor.node(KIND, "node.serialize().widgets_values") == before
    prompt = resolver.editor.evaluate("app.graphToPrompt().then(({ output }) => output)")
    (inputs,) = (node["inputs"] for node in prompt.values() if node["class_type"] == KIND)
    assert not any(name.startswith("flexedit") for name in inputs)


def test_a_run_whose_scene_is_gone_shows_nothing_of_the_run_before(resolver):
    resolver.load(ACROSS)
    run = resolver.run()
    place = run.place(2, 3)
    assert any(resolver.color(place))
    page = resolver.editor.page
    page.route("**/view?*type=temp*", lambda route: route.abort())
    resolver.buttons.last.click()
    resolver.editor.queue()
    resolver.editor.until(lambda: not resolver.status().startswith("Run again"))
    resolver.editor.until(lambda: not any(resolver.color(place)))
    assert resolver.num_badges() == 0
    resolver.click(place)
    assert resolver.candidate() == len(run.masks)
    page.unroute("**/view?*type=temp*")
    errors = resolver.editor.errors
    errors[:] = [error for error in errors if "type=temp" not in error]  # they were meant


def test_an_outline_takes_the_place_of_the_one_before_of_its_colour(editor):
    """The node's width decides how thick it is; every pixel of a drag would leave a canvas."""
    is_kept = editor.evaluate(
        """async () => {
          const { Region } = await import("/extensions/flexedit/results/region.js");
          window.region = new Region(null, [40, 30]);
          const widths = Array.from({ length: 10 }, (_, index) => 1 + index / 10);
          const outlines = widths.map((width) => window.region.outline("white", width));
          window.outlines = outlines.map((outline) => new WeakRef(outline));
          return window.region.outline("white", widths.at(-1)) === outlines.at(-1);
        }"""
    )
    assert is_kept
    editor.page.request_gc()
    alive = editor.evaluate("window.outlines.map((outline) => Boolean(outline.deref()))")
    assert alive == [False] * 9 + [True]
