"""One draws on the node, in both renderings of the page, and that mask arrives."""

import json

import numpy as np
import pytest
from PIL import Image

from flexedit.masks import strokes
from flexedit.masks.strokes import parse, rasterise
from tools.comfyui.editor import SCENE, Editor, Place, graph, scene, swipes

MASK = "FlexEditFreeShapeMask"
KEYS = {"brush": "b", "lasso": "l", "circle": "c", "rectangle": "r", "triangle": "t", "eraser": "e"}
ZIGZAG: list[Place] = [(0.2, 0.25), (0.8, 0.4), (0.3, 0.6), (0.75, 0.8)]
AROUND: list[Place] = [(0.3, 0.3), (0.7, 0.25), (0.75, 0.7), (0.35, 0.8), (0.25, 0.5)]
BOX: list[Place] = [(0.25, 0.2), (0.8, 0.75)]
PATHS = {"brush": ZIGZAG, "lasso": AROUND} | dict.fromkeys(strokes.SHAPES, BOX)
SAVED = json.dumps(
    {"version": 1, "strokes": [{"tool": "rectangle", "open": False, "points": [[0, 0], [0.5, 1]]}]}
)
PIXEL = 1 / 200  # of the picture: what a mouse on whole pixels can miss


@pytest.fixture
def either(rendered: Editor) -> Editor:
    """The page in each of its renderings, with a new graph."""
    rendered.build()
    return rendered


@pytest.fixture
def classic(editor: Editor) -> Editor:
    editor.build()
    return editor


def drawn(text: str) -> np.ndarray:
    return rasterise(parse(text), SCENE[1], SCENE[0]).numpy() > 0


def follows(stroke: dict, path: list[Place]) -> bool:
    """Whether a saved stroke has the corners of the mouse's path, in their order."""
    wanted = list(path)
    for point in stroke["points"]:
        if wanted and np.allclose(point, wanted[0], atol=PIXEL):
            wanted.pop(0)
    return not wanted


def focus(editor: Editor) -> None:
    """As a person who has drawn something; nothing of it is left."""
    editor.stage.click()
    editor.press("Control+z")
    assert editor.text() == ""


# Drawing


@pytest.mark.parametrize("is_other", [False, True])
def test_the_mask_that_arrives_is_the_one_that_was_drawn(either, is_other):
    """By each tool, open or filled as it is at first or the other way"""
    focus(either)
    for tool, path in PATHS.items():
        either.press(KEYS[tool], *(["f"] if is_other else []))
        either.drag(*path)
        stroke = either.strokes()[-1]
        assert stroke["tool"] == tool and stroke["open"] == ((tool == "brush") != is_other)
        assert follows(stroke, path)
        assert np.array_equal(either.run(), drawn(either.text()))
        either.press(*(["f"] if is_other else []))


def test_the_tools_are_chosen_by_their_buttons(either):
    either.click("Rectangle")
    either.drag((0.1, 0.1), (0.9, 0.9))
    either.click("Eraser")
    either.drag((0.3, 0.5), (0.7, 0.5))
    either.click("Brush")
    either.click("Fill")
    either.drag((0.4, 0.4), (0.6, 0.4), (0.5, 0.6))
    kinds = [(stroke["tool"], stroke["open"]) for stroke in either.strokes()]
    assert kinds == [("rectangle", False), ("eraser", True), ("brush", False)]
    assert np.array_equal(either.run(), drawn(either.text()))


def test_the_page_shows_the_mask_that_is_drawn(classic):
    """The marks on the canvas are where Python's mask is, for shapes, lines and turned shapes."""
    text = json.dumps(
        {
            "version": 1,
            "strokes": [
                {"tool": "circle", "points": [[0.05, 0.1], [0.5, 0.4]], "open": True},
                {"tool": "triangle", "points": [[0.5, 0.1], [0.9, 0.5]], "rotation": 35},
                {"tool": "triangle", "points": [[0.1, 0.5], [0.4, 0.9]], "open": True},
                {"tool": "rectangle", "points": [[0.55, 0.6], [0.9, 0.9]], "open": True}
                | {"rotation": -20, "width": 0.1},
                {"tool": "lasso", "points": AROUND, "open": True, "width": 0.02},
                {"tool": "brush", "points": ZIGZAG, "open": False, "width": 0.08},
                {"tool": "eraser", "points": AROUND[:2], "width": 0.06},
                {"tool": "brush", "points": [[0.95, 0.95]]},
            ],
        }
    )
    size = (SCENE[0] * 4, SCENE[1] * 4)
    shown = classic.evaluate(
        """async ([text, [width, height]]) => {
          const at = (name) => `/extensions/flexedit/drawing/${name}.js`;
          const { read } = await import(at("strokes"));
          const { paint } = await import(at("shapes"));
          const context = new OffscreenCanvas(width, height).getContext("2d");
          for (const stroke of read(text)) paint(context, stroke, width, height);
          const { data } = context.getImageData(0, 0, width, height);
          return Array.from({ length: width * height }, (_, i) => data[4 * i + 3]);
        }""",
        [text, size],
    )
    alpha = np.array(shown).reshape(size[::-1])
    mask = rasterise(parse(text), size[1], size[0]).numpy() > 0
    certain = (alpha < 64) | (alpha > 191)  # the browser draws soft borders
    assert certain.mean() > 0.97
    assert ((alpha > 127) == mask)[certain].mean() > 0.9995


def test_the_marks_lie_on_the_canvas_where_the_mask_is(either):
    either.set_text(SAVED)
    canvas = either.page.locator(".flexedit-stage canvas").first

    def color(where: Place) -> list[int]:
        left, top, width, height = either.box()
        box = canvas.bounding_box()
        x, y = left - box["x"] + where[0] * width, top - box["y"] + where[1] * height
        return canvas.evaluate(
            """(canvas, [x, y]) => {
              const scale = canvas.width / canvas.clientWidth;
              return [...canvas.getContext("2d").getImageData(x * scale, y * scale, 1, 1).data];
            }""",
            [x, y],
        )[:3]

    either.until(lambda: not np.allclose(color((0.25, 0.25)), (200, 60, 60), atol=3))
    assert np.allclose(color((0.25, 0.25)), (228, 52, 90), atol=4)  # half the mark, half red
    assert np.allclose(color((0.75, 0.25)), (60, 160, 60), atol=3)
    assert np.allclose(color((0.75, 0.75)), (220, 200, 90), atol=3)


def test_a_line_as_thick_as_chosen(classic):
    focus(classic)
    classic.drag((0.2, 0.3), (0.8, 0.3))
    classic.press("]", "]", "]")
    classic.drag((0.2, 0.5), (0.8, 0.5))
    classic.press("Alt+BracketRight")  # where a keyboard needs Alt for brackets
    classic.drag((0.2, 0.7), (0.8, 0.7))
    classic.page.locator(".flexedit-width").fill("1")
    classic.drag((0.2, 0.9), (0.8, 0.9))
    widths = [stroke["width"] for stroke in classic.strokes()]
    thicker = [pytest.approx(0.05 * 1.15**times, abs=1e-4) for times in (3, 4)]
    assert widths == [0.05, *thicker, 0.5]


def test_shift_keeps_a_line_straight_and_a_shape_even(classic):
    focus(classic)
    classic.page.keyboard.down("Shift")
    classic.drag(*ZIGZAG)
    classic.click("Circle")
    classic.drag((0.2, 0.2), (0.5, 0.3))
    classic.page.keyboard.up("Shift")
    line, circle = classic.strokes()
    assert np.allclose(line["points"], [ZIGZAG[0], ZIGZAG[-1]], atol=PIXEL)
    (x0, y0), (x1, y1) = circle["points"]
    assert (x1 - x0) * SCENE[0] == pytest.approx((y1 - y0) * SCENE[1], abs=0.1)
    assert x1 == pytest.approx(0.5, abs=PIXEL)


def test_a_shape_is_turned_by_keys(classic):
    focus(classic)
    classic.press("r")
    classic.drag((0.3, 0.3), (0.7, 0.6))
    classic.press(".", ".", ",", ">")
    assert classic.strokes()[0]["rotation"] == 50
    assert np.array_equal(classic.run(), drawn(classic.text()))


def test_a_click_draws_a_dot_but_no_shape(classic):
    classic.stage.click()
    assert [stroke["tool"] for stroke in classic.strokes()] == ["brush"]
    for key in ("l", "c", "r", "t"):
        classic.press(key)
        classic.stage.click()
    assert len(classic.strokes()) == 1


def test_what_is_drawn_on_an_enlarged_picture_lies_where_it_was_seen(either):
    focus(either)
    either.page.mouse.move(*either.place((0.75, 0.25)))
    either.page.mouse.wheel(0, -400)
    either.press("r")
    either.drag((0.75, 0.25), (0.9, 0.4))
    ((x0, y0), (x1, y1)) = either.strokes()[0]["points"]
    assert (x0, y0) == pytest.approx((0.75, 0.25), abs=PIXEL)  # what lay under the wheel stays
    assert 0.02 < x1 - x0 < 0.12  # enlarged more than 1.25 times
    assert x1 - x0 == pytest.approx(y1 - y0, rel=0.05)
    either.page.keyboard.down("Space")
    either.drag((0.5, 0.5), (0.6, 0.5))
    either.page.keyboard.up("Space")
    assert len(either.strokes()) == 1
    either.drag((0.75, 0.25), (0.9, 0.4))
    moved = either.strokes()[1]["points"][0][0]
    assert moved == pytest.approx(0.75 - 0.1 * (x1 - x0) / 0.15, abs=2 * PIXEL)
    either.press("0")
    either.drag((0.1, 0.6), (0.2, 0.7))
    assert either.strokes()[2]["points"][0] == pytest.approx([0.1, 0.6], abs=PIXEL)


# Fingers and pens


def test_a_finger_draws(either):
    focus(either)
    path = [either.place(where) for where in ZIGZAG]
    swipes(either.page, [path])
    (stroke,) = either.strokes()
    assert follows(stroke, ZIGZAG)
    assert np.array_equal(either.run(), drawn(either.text()))


def test_two_fingers_enlarge_the_picture_and_not_the_graph(either):
    focus(either)
    apart = [(0.4 - 0.06 * step, 0.5) for step in range(6)]
    fingers = [[either.place((x, y)) for x, y in apart]]
    fingers.append([either.place((1 - x, y)) for x, y in apart])
    scale = either.evaluate("app.canvas.ds.scale")
    swipes(either.page, fingers)
    assert either.strokes() == []
    assert either.evaluate("app.canvas.ds.scale") == scale
    zoom = either.page.locator(".flexedit-zoom").first
    assert int(zoom.input_value().split()[0]) > 300


def test_the_other_end_of_a_pen_erases(classic):
    classic.set_text(SAVED)
    session = classic.page.context.new_cdp_session(classic.page)
    pen = {"pointerType": "pen", "button": "left", "clickCount": 1}
    for kind, where in (("mousePressed", (0.2, 0.2)), ("mouseMoved", (0.3, 0.8))):
        x, y = classic.place(where)
        session.send(
            "Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "buttons": 1, **pen}
        )
    session.send("Input.dispatchMouseEvent", {"type": "mouseReleased", "x": x, "y": y, **pen})
    assert [stroke["tool"] for stroke in classic.strokes()] == ["rectangle", "brush"]
    classic.stage.evaluate(
        """(stage, [from, to]) => {
          stage.setPointerCapture = () => {}; // there is no such pointer
          const surface = stage.querySelector("input");
          const send = (type, [clientX, clientY], button, buttons) => {
            const pen = { pointerId: 1, pointerType: "pen", bubbles: true };
            surface.dispatchEvent(
              new PointerEvent(type, { ...pen, clientX, clientY, button, buttons }),
            );
          };
          send("pointerdown", from, 5, 32);
          send("pointermove", to, -1, 32);
          send("pointerup", to, 5, 0);
          delete stage.setPointerCapture;
        }""",
        [classic.place((0.1, 0.1)), classic.place((0.4, 0.4))],
    )
    assert classic.strokes()[-1]["tool"] == "eraser"


# Undo


def test_undo_and_redo_follow_the_drawing(either):
    focus(either)
    either.drag(*ZIGZAG)
    first = either.text()
    either.press("r")
    either.drag(*BOX)
    second = either.text()
    either.press("Control+z")
    assert either.text() == first
    either.press("Control+Shift+z")
    assert either.text() == second
    either.press("Backspace", "Control+y")
    assert either.text() == second
    either.press("Delete")
    assert either.text() == ""
    either.press("Control+z", "Control+z")
    assert either.text() == first
    either.click("Redo")
    either.click("Clear")
    either.click("Undo")
    assert either.text() == second
    assert either.evaluate("app.graph._nodes.length") == 4  # ComfyUI undid nothing itself


def test_comfyui_undoes_a_stroke_when_the_graph_has_the_focus(either):
    focus(either)
    either.drag(*ZIGZAG)
    either.drag(*AROUND)
    assert len(either.strokes()) == 2
    either.click_graph()
    either.undo()
    either.until(lambda: len(either.strokes()) == 1)
    either.wait_for_node()
    either.stage.click()
    assert len(either.strokes()) == 2  # and one draws on
    either.press("Control+z", "Control+z")
    assert either.text() == ""


# The drawing is part of the workflow


def test_a_reloaded_page_has_the_drawing(either):
    focus(either)
    either.drag(*ZIGZAG)
    text = either.text()
    either.save_draft(text)
    either.open()
    either.wait_for_node()
    assert either.text() == text
    either.wait_for_picture()
    assert np.array_equal(either.run(), drawn(text))
    either.stage.click()
    either.press("Control+z", "Control+z")
    assert either.text() == ""


def test_a_copied_node_has_a_drawing_of_its_own(either):
    focus(either)
    either.drag(*ZIGZAG)
    text = either.text()
    either.press("Control+c")
    either.page.mouse.move(1000, 600)
    either.press("Control+v")
    either.until(lambda: either.evaluate("app.graph._nodes.length") == 5)
    assert either.text(0) == either.text(1) == text
    either.stage.click()
    assert sorted(len(either.strokes(index)) for index in (0, 1)) == [1, 2]


def test_a_drawing_that_is_changed_from_outside_is_shown(either):
    either.set_text(SAVED)
    assert either.text() == SAVED
    either.drag((0.6, 0.5), (0.9, 0.5))
    assert [stroke["tool"] for stroke in either.strokes()] == ["rectangle", "brush"]
    one_point = '{"version": 1, "strokes": [{"tool": "circle", "points": [[0.5, 0.5]]}]}'
    for text in (one_point, "{broken"):
        either.set_text(text)
        assert either.caption().startswith("These strokes cannot be shown")
    either.drag((0.6, 0.5), (0.9, 0.5))
    assert either.text() == "{broken"  # nothing is lost
    either.click("Clear")
    assert either.text() == ""


def test_strokes_from_another_node_cannot_be_drawn_over(either):
    either.add("PrimitiveString", (60, 600), [SAVED])
    either.connect("PrimitiveString", MASK, "strokes")
    panel = either.page.locator(".flexedit-drawing:visible")
    is_vue = either.evaluate("LiteGraph.vueNodesMode")
    if either.version < ((1, 58) if is_vue else (1, 47)):
        either.until(lambda: either.caption() == "The strokes come from another node.")
        either.drag(*ZIGZAG)
    else:  # the page itself hides what is connected
        either.until(lambda: panel.count() == 0)
    assert either.text() == ""
    assert np.array_equal(either.run(), drawn(SAVED))


# The node


def test_a_kind_from_another_node_leaves_drawing_and_numbers_and_a_number_stays(either):
    either.until(lambda: either.shown_widgets() == ["kind", "strokes"])
    either.add("Reroute", (60, 600))
    either.connect("Reroute", MASK, "kind")
    either.until(lambda: {"x", "image_width", "strokes"} <= set(either.shown_widgets()))
    assert either.caption() == "The kind comes from another node."
    either.until(either.holds_its_drawing)
    either.mask_node("node.disconnectInput(argument)", "kind")
    either.until(lambda: either.shown_widgets() == ["kind", "strokes"])
    number = ["rotation"] if either.version < (1, 58) else []  # the page hides what is connected
    either.add("PrimitiveFloat", (60, 600))
    either.connect("PrimitiveFloat", MASK, "rotation")
    either.until(lambda: either.shown_widgets() == ["kind", *number, "strokes"])


def test_a_drawing_on_the_node_of_its_subgraph_hides_nothing_there(editor):
    editor.render("vue")
    editor.build()
    names = ["kind", "seed", "rotation", "x", "y"]
    outer, saved = editor.evaluate(
        """(names) => {
          const [node] = app.graph.findNodesByType("FlexEditFreeShapeMask");
          const { node: outer } = app.graph.convertToSubgraph(new Set([node]));
          const saved = JSON.parse(JSON.stringify(app.graph.serialize())); // as a file has it
          const entry = saved.nodes.find((it) => String(it.id) === String(outer.id));
          entry.properties.proxyWidgets = names.map((name) => [String(node.id), name]);
          delete entry.widgets_values;
          return [outer.id, saved];
        }""",
        [*names, "strokes"],
    )
    editor.load(saved)
    rows = editor.page.locator(f".lg-node[data-node-id='{outer}'] .lg-node-widget:visible")
    editor.until(lambda: rows.count() == len(names) + 1)
    if editor.version < (1, 47):  # newer pages have an empty row there
        editor.until(lambda: rows.locator(".flexedit-stage:visible").count() == 1)
        editor.wait_for_picture()
    assert rows.count() == len(names) + 1


def test_no_timer_outlives_its_node(classic):
    """ComfyUI does not tell the nodes inside a subgraph when another graph takes their place."""
    saved = classic.evaluate(
        """() => {
          const [node] = app.graph.findNodesByType("FlexEditFreeShapeMask");
          app.graph.convertToSubgraph(new Set([node]));
          return JSON.parse(JSON.stringify(app.graph.serialize()));
        }"""
    )
    classic.evaluate(
        """() => {
          const { setInterval, clearInterval } = window;
          window.timers = new Set();
          window.setInterval = (...details) => {
            const timer = setInterval(...details);
            if (new Error().stack.includes("/extensions/flexedit/")) window.timers.add(timer);
            return timer;
          };
          window.clearInterval = (timer) => {
            window.timers.delete(timer);
            clearInterval(timer);
          };
        }"""
    )
    for _ in range(3):
        classic.load(saved)
    classic.load(graph(classic.next_id(), "EmptyImage", SCENE))
    classic.wait_for_node()
    assert classic.evaluate("window.timers.size") <= 1
    classic.open()  # whose timers are its own again


def test_the_numbers_show_when_they_matter(either):
    def shown() -> list[str]:
        return either.shown_widgets()

    either.until(lambda: shown() == ["kind", "strokes"])
    either.choose_kind("circle")
    numbers = shown()
    assert "strokes" not in numbers and {"x", "rotation", "image_width"} <= set(numbers)
    either.choose_kind("drawn")
    either.until(lambda: shown() == ["kind", "strokes"])
    either.mask_node("node.disconnectInput(0)")
    either.until(lambda: shown() == ["kind", "image_width", "image_height", "strokes"])


def test_a_workflow_from_before_there_was_drawing_is_read_as_it_was(either):
    values = ["triangle open", 0.3, 0.4, 0.5, 0.6, 10, 0.1, 7, "fixed", 300, 200]
    workflow = graph(500, "LoadImage", ["scene.png"])
    workflow["nodes"][1]["widgets_values"] = values
    either.load(workflow)
    assert either.mask_node("node.widgets.map((it) => it.value)") == [*values, ""]
    assert "strokes" not in either.shown_widgets()
    either.choose_kind("drawn")
    either.wait_for_node()
    either.wait_for_layout()
    either.drag(*ZIGZAG)
    assert len(either.strokes()) == 1


def test_the_picture_of_any_other_node_shows_after_a_run(either):
    either.build("EmptyImage", *SCENE, 1, 0x3366CC)
    assert either.caption() == "Run once to see the picture here."
    assert either.queue()["status"]["status_str"] == "error"  # nothing is drawn yet
    either.until(lambda: either.caption() == "Draw over the thing to edit.")
    either.close_report()
    either.wait_for_picture()
    either.wait_for_layout()
    either.drag(*ZIGZAG)
    assert np.array_equal(either.run(), drawn(either.text()))


@pytest.mark.parametrize("origin", ["new", "saved"])
def test_a_drawing_rolls_no_seed_that_nobody_sees(classic, origin):
    """It would make ComfyUI run all that follows the drawing again."""
    if origin == "new":
        classic.mask_node("app.graph.remove(node)")
        classic.evaluate("void app.graph.add(LiteGraph.createNode('FlexEditFreeShapeMask'))")
    else:
        saved = graph(classic.next_id(), "LoadImage", ["scene.png"])
        values = ["drawn", 0.5, 0.5, 0.4, 0.4, 0, 0.06, 0, "randomize", 512, 512, SAVED]
        saved["nodes"][1]["widgets_values"] = values
        classic.load(saved)
        classic.wait_for_node()
    control = "node.widgets.find((it) => it.name === 'control_after_generate').value"
    assert classic.mask_node(control) == "fixed"


def test_a_picture_whose_name_comes_through_an_input_shows_after_a_run(classic):
    classic.drag(*ZIGZAG)
    classic.comfy.upload_image(Image.new("RGB", (90, 120), "navy"), "tall.png")
    classic.evaluate(
        """() => {
          const kinds = ["LoadImage", "FlexEditFreeShapeMask"];
          const nodes = app.graph.nodes.filter((node) => kinds.includes(node.type));
          const { subgraph, node: outer } = app.graph.convertToSubgraph(new Set(nodes));
          const inner = subgraph.nodes.find((node) => node.type === "LoadImage");
          const slot = inner.inputs.find((it) => it.name === "image");
          subgraph.addInput("image", slot.type).connect(slot, inner);
          outer.widgets.find((it) => it.name === "image").value = "tall.png";
          app.canvas.openSubgraph(subgraph, outer);
        }"""
    )
    classic.until(lambda: classic.caption() == "Run once to see the picture here.")
    classic.queue()
    classic.wait_for_picture(90 / 120)


def choose(editor, name):
    editor.evaluate(
        """(name) => {
          const [image] = app.graph.findNodesByType("LoadImage");
          const widget = image.widgets[0];
          widget.options.values.push?.(name);
          widget.value = name;
        }""",
        name,
    )


def choose_another_picture(editor):
    editor.comfy.upload_image(Image.new("RGB", (90, 120), "navy"), "tall.png")
    choose(editor, "tall.png")
    editor.wait_for_picture(90 / 120)


def test_another_picture_shows_as_soon_as_it_is_chosen(either):
    choose_another_picture(either)


def test_the_first_stroke_on_another_picture_replaces_the_drawing_of_the_last_one(either):
    first = either.node("LoadImage", "node.widgets[0].value")
    either.drag((0.2, 0.2), (0.6, 0.3))
    choose_another_picture(either)
    either.until(lambda: "another picture" in either.caption())
    assert len(either.strokes()) == 1  # it is kept until then, for who means it
    choose(either, first)
    either.until(lambda: not either.caption())  # back on the picture that it was drawn on
    choose_another_picture(either)
    either.until(lambda: "another picture" in either.caption())
    either.drag((0.3, 0.7), (0.5, 0.8))
    (stroke,) = either.strokes()
    assert stroke["points"][0][1] > 0.5  # the new one
    assert not either.caption()
    either.drag((0.3, 0.5), (0.5, 0.5))
    assert len(either.strokes()) == 2
    either.press("Control+z", "Control+z")
    assert either.strokes()[0]["points"][0][1] < 0.5  # the old one


def test_a_picture_that_was_missing_shows_when_one_comes_back_to_draw(either):
    name = f"late-{either.next_id()}.png"
    either.load(graph(either.next_id(), "LoadImage", [name]))
    either.wait_for_node()
    either.until(lambda: either.caption() == "The picture cannot be loaded.")
    either.comfy.upload_image(scene(), name)
    either.click_graph()
    either.stage.hover()
    either.wait_for_picture()
    either.until(lambda: either.caption() == "Draw over the thing to edit.")
    either.errors[:] = [error for error in either.errors if name not in error]  # it was missing


def test_in_a_subgraph_one_draws_on_the_picture_from_outside(either):
    either.evaluate(
        """() => {
          const [node] = app.graph.findNodesByType("FlexEditFreeShapeMask");
          const { subgraph, node: outer } = app.graph.convertToSubgraph(new Set([node]));
          app.canvas.openSubgraph(subgraph, outer);
        }"""
    )
    either.wait("app.canvas.graph.nodes[0]?.widgets.at(-1).element.checkVisibility()")
    either.wait_for_picture()
    either.wait_for_layout()
    either.drag(*ZIGZAG)
    text = either.evaluate("app.canvas.graph.nodes[0].widgets.at(-1).value")
    assert follows(json.loads(text)["strokes"][0], ZIGZAG)
    either.evaluate("app.canvas.setGraph(app.graph)")
    assert np.array_equal(either.run(), drawn(text))


def test_keys_of_the_drawing_are_not_comfyuis_and_the_other_way_round(either):
    focus(either)
    either.press("r", "c", "q", "w", "n", "m", "h", "Backspace")
    assert either.page.locator(".side-bar-button-selected").count() == 0
    assert either.evaluate("app.graph._nodes.length") == 4
    assert not either.evaluate("app.canvas.read_only")
    either.drag(*BOX)  # the last tool that was chosen is the circle
    assert either.strokes()[0]["tool"] == "circle"
    run = either.queue(lambda: either.press("Control+Enter"))
    assert run["status"]["status_str"] == "success"
    either.click_graph()
    either.press("Backspace", "e")
    assert len(either.strokes()) == 1


def test_the_wheel_is_the_graphs_until_one_draws(either):
    either.click_graph()
    either.page.mouse.move(*either.place((0.5, 0.5)))
    before = either.evaluate("app.canvas.ds.scale")
    either.page.mouse.wheel(0, -100)
    either.until(lambda: either.evaluate("app.canvas.ds.scale") > before)


def test_every_button_says_what_it_does(classic):
    unnamed = classic.page.eval_on_selector_all(
        ".flexedit-drawing input", "all => all.filter((it) => !it.ariaLabel && !it.title).length"
    )
    assert unnamed == 0
