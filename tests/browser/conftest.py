from collections.abc import Iterator

import pytest

from tests.browser.editor import RENDERERS, Editor, chromium, find_chromium
from tests.comfyui.server import ComfyServer


@pytest.fixture(scope="session")
def opened(comfy: ComfyServer) -> Iterator[Editor]:
    """ComfyUI's page; loading it takes longer than most tests."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is installed")
    with chromium(path, has_touch=True) as page:
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
