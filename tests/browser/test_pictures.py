"""What makes the pictures of README and node help still does: `pictures`, in the page."""

import numpy as np
import pytest
from PIL import Image

from tools import animation, pictures
from tools.comfyui.editor import Editor
from tools.comfyui.fetch import PACK

TITLE = "(kind) => LiteGraph.registered_node_types[kind].title"


@pytest.fixture
def checked(monkeypatch) -> list[str]:
    """The names of the pictures that are saved, each while its nodes are on the page."""
    names: list[str] = []
    save = pictures.save

    def save_and_check(editor, path, kinds):
        save(editor, path, kinds)
        for kind in kinds:
            title = editor.evaluate(f"({TITLE})", kind)
            header = editor.page.locator(".lg-node-header", has_text=title)
            assert any(one.is_visible() for one in header.all()), title
        picture = Image.open(path)
        assert path.stat().st_size < pictures.LARGEST
        assert min(picture.size) > 200
        assert np.asarray(picture.convert("L")).std() > 12  # an empty graph has 3
        names.append(path.name)

    monkeypatch.setattr(pictures, "save", save_and_check)
    return names


def test_there_is_a_view_for_every_picture_of_readme_and_help():
    shown = (PACK / "web" / "docs" / "pictures").iterdir()
    assert pictures.VIEWS.keys() == {path.name for path in shown}


def test_pictures_are_taken_from_the_page(editor: Editor, checked, tmp_path):
    """Before a run and after one; of a workflow's nodes, a preview and another loader"""
    names = ["resolver.png", "ksampler.png", "vllm-loader.png"]
    pictures.take(editor, tmp_path, names)
    assert checked == names == sorted((path.name for path in tmp_path.iterdir()), key=names.index)


@pytest.mark.soak
def test_the_animation_is_recorded_from_the_page(editor: Editor, tmp_path):
    """It begins with an empty drawing, and ends with a scribble, the whole object and an edit."""
    size = editor.page.viewport_size
    editor.page.set_viewport_size(animation.LOOK["viewport"])
    animation.record(editor, tmp_path / "edit.webp")
    editor.page.set_viewport_size(size)
    with Image.open(tmp_path / "edit.webp") as recorded:
        assert recorded.n_frames > 20
        first, last = (np.asarray(frame(recorded, at), float) for at in (0, recorded.n_frames - 1))
    changed = np.abs(last - first).mean(2) > 20
    thirds = np.array_split(changed, 3, axis=1)  # the drawing, the whole object, words and result
    assert all(third.mean() > 0.002 for third in thirds)


def frame(animation: Image.Image, index: int) -> Image.Image:
    animation.seek(index)
    return animation.convert("RGB")
