"""After a run the interpreter shows what the model said, in both renderings of the page."""

from typing import Any

import pytest
from PIL import Image

from tests.tiny import embedded
from tools.comfyui.editor import Editor, Node, workflow
from tools.demo import held_out, scribbled

KIND = "FlexEditMaskInterpreter"


def graph(
    first: int, reply: str = "generate", num_pictures: int = 1, picture: str = "scribbled.png"
) -> dict[str, Any]:
    """LoadImage, with its mask → a batch of it → FlexEditMaskInterpreter, by the embedded model"""
    inputs = {"vllm": (2, 3, "FLEXEDIT_VLLM"), "scene": (1, 0, "IMAGE"), "mask": (0, 1, "MASK")}
    nodes = (
        Node("LoadImage", (60, 120), (270, 314), (picture,)),
        Node("RepeatImageBatch", (60, 480), (270, 60), (num_pictures,), {"image": (0, 0, "IMAGE")}),
        Node("FlexEditLoader", (60, 600), (270, 150), ("flexedit-mini", "auto")),
        Node(KIND, (400, 120), (340, 320), ("remove this", "edit", reply), inputs),
    )
    return workflow(nodes, first)


@pytest.fixture
def page(rendered: Editor) -> Editor:
    embedded()  # or skips
    sample = held_out("remove", 6, 128)
    rendered.comfy.upload_image(Image.fromarray(scribbled(sample)), "scribbled.png")
    return rendered


def shown(page: Editor) -> list[str]:
    return page.page.locator(".flexedit-card:visible, .flexedit-note:visible").all_inner_texts()


def said(page: Editor) -> list[str]:
    """Runs the graph → what it sent to the page, as it should be shown."""
    (output,) = page.queue()["outputs"].values()
    return [f"{one['label']}\n{one['reply']}".strip() for one in output["flexedit_reply"]]


def test_the_interpreter_shows_what_the_model_said(page):
    page.load(graph(page.next_id()))
    assert shown(page) == []
    (reply,) = said(page)
    assert reply.split("\n")[0] == "cake"
    page.until(lambda: shown(page) == [reply])


IN_SIGHT = """[...document.querySelectorAll(".flexedit-card, .flexedit-hint")].map((element) => {
  const { left, top, width, height } = element.getBoundingClientRect();
  return element.contains(document.elementFromPoint(left + width / 2, top + height / 2));
})"""


def test_every_picture_of_a_batch_has_its_reply_in_sight_on_the_node(page):
    page.load(graph(page.next_id(), num_pictures=2))
    replies = said(page)
    assert len(replies) == 2
    page.until(lambda: shown(page) == replies)
    page.until(lambda: page.evaluate(IN_SIGHT) == [True, True])


def test_it_says_why_there_are_no_words_and_that_the_picture_is_too_large(page):
    large = Image.fromarray(scribbled(held_out("remove", 6, 128))).resize((256, 256))
    page.comfy.upload_image(large, "large.png")
    page.load(graph(page.next_id(), "direct", picture="large.png"))
    assert said(page) == [""]
    page.until(lambda: [text.split(",")[0] for text in shown(page)] == ["No words"])
    hint = page.page.locator(".flexedit-hint:visible")
    page.until(lambda: hint.count() == 1 and "256×256 pixels" in hint.inner_text())
    page.until(lambda: page.evaluate(IN_SIGHT) == [True])


def test_what_is_shown_is_no_part_of_the_workflow(page):
    page.load(graph(page.next_id()))
    said(page)
    page.until(lambda: len(shown(page)) == 1)
    values = ["remove this", "edit", "generate"]
    assert page.node(KIND, "node.serialize().widgets_values") == values
    prompt = page.evaluate("app.graphToPrompt().then(({ output }) => output)")
    (inputs,) = (node["inputs"] for node in prompt.values() if node["class_type"] == KIND)
    assert set(inputs) == {"vllm", "scene", "mask", "instruction", "task", "reply"}


def test_undo_keeps_what_is_shown(page):
    page.load(graph(page.next_id()))
    said(page)
    page.until(lambda: len(shown(page)) == 1)
    before = shown(page)
    page.node(
        KIND,
        """(app.canvas.emitBeforeChange(), (node.widgets[0].value = "remove the tree"),
            app.canvas.emitAfterChange())""",
    )
    page.click_graph()
    page.undo()
    page.until(lambda: page.node(KIND, "node.widgets[0].value") == "remove this")
    page.until(lambda: shown(page) == before)


def test_a_reloaded_page_shows_it_after_the_next_run_without_computing_anew(page):
    page.load(graph(page.next_id()))
    title = f"Draft {page.next_id()}"
    page.node(KIND, "(node.title = argument)", title)
    said(page)
    page.until(lambda: len(shown(page)) == 1)
    before = shown(page)
    page.save_draft(title)
    page.open()
    assert shown(page) == []
    run = page.queue()
    cached = next(data["nodes"] for kind, data in run["status"]["messages"] if "cached" in kind)
    assert len(cached) == 4
    page.until(lambda: shown(page) == before)
