from collections.abc import Iterator

import pytest

from tools.comfyui.editor import RENDERERS, Editor, chromium
from tools.comfyui.server import ComfyServer


@pytest.fixture(scope="session")
def opened(comfy: ComfyServer, browser: str) -> Iterator[Editor]:
    """ComfyUI's page; loading it takes longer than most tests."""
    with chromium(browser, has_touch=True) as page:
        editor = Editor(page, comfy)
        editor.open()
        yield editor


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
