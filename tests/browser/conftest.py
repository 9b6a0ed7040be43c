from collections.abc import Iterator
from typing import Any

import pytest

from tools.comfyui.editor import RENDERERS, Editor, new_page
from tools.comfyui.server import ComfyServer


@pytest.fixture(scope="session")
def opened(comfy: ComfyServer, browser: Any) -> Editor:
    """ComfyUI's page; loading it takes longer than most tests."""
    editor = Editor(new_page(browser, has_touch=True), comfy)
    editor.open()
    return editor


@pytest.fixture
def editor(opened: Editor) -> Iterator[Editor]:
    """The page, in the classic rendering; the test fails if a script of the page does."""
    opened.errors.clear()
    opened.render("classic")
    yield opened
    assert opened.errors == []


@pytest.fixture(params=RENDERERS)
def rendered(editor: Editor, request) -> Editor:
    """The page, in each of its renderings."""
    editor.render(request.param)
    return editor
