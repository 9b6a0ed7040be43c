"""What the documentation quotes and links is there."""

import ast
import json
import re
from functools import cache

import pytest
from PIL import Image

from flexedit.benchmark.judge import FACTS, FOLDER, WEIGHTS
from flexedit.benchmark.report import as_markdown
from flexedit.files import fingerprint
from studies.ablation.__main__ import PACKED
from studies.ablation.tables import tables
from studies.logs import read_logs
from tests.pages import HELP, PAGES, ROOT

TABLE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| `(.+?)` \|", TABLE, re.MULTILINE)


@cache
def texts() -> tuple[str, ...]:
    """Every text of the code; what is filled in at run time is left out."""
    trees = (
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("flexedit", "nodes")
        for path in (ROOT / folder).rglob("*.py")
    )
    found = []
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        if isinstance(node, ast.JoinedStr):
            parts = (part.value for part in node.values if isinstance(part, ast.Constant))
            found.append("\0".join(parts))
    return tuple(found)


@pytest.mark.parametrize("message", MESSAGES)
def test_troubleshooting_quotes_messages_that_the_code_raises(message):
    parts = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.search(text) for text in texts())


def test_troubleshooting_has_a_table_of_messages():
    assert len(MESSAGES) >= 15


def test_the_readme_is_short_and_begins_with_a_small_animation():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 800
    path = ROOT / re.findall(r"!\[.+?\]\((.+?)\)", text)[0]
    assert path.stat().st_size < 3_000_000
    with Image.open(path) as animation:
        assert animation.n_frames > 10


def test_every_node_has_a_page_of_help_with_a_picture():
    nodes = json.loads((ROOT / "tests" / "comfyui" / "object_info.json").read_text())
    assert {page.stem for page in HELP} == set(nodes)
    for page in HELP:
        pictures = re.findall(r"!\[.+\]\((pictures/.+\.png)\)", page.read_text(encoding="utf-8"))
        assert pictures, page.name
        for picture in pictures:
            assert (page.parent / picture).stat().st_size < 150_000


def test_every_picture_of_the_help_is_shown_somewhere():
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (ROOT / "web" / "docs" / "pictures").iterdir():
        assert picture.name in shown


def test_what_the_embedded_model_recommends_is_said_alike_everywhere():
    folder = ROOT / "flexedit" / "pretrained" / "flexedit-mini"
    advice = json.loads((folder / "flexedit.json").read_text())["sampling"]
    edit, scene = advice["edit_cfg"], advice["scene_cfg"]
    assert any(f"flexedit-mini {edit}" in text for text in texts())  # the sampler's tooltip
    for page in (ROOT / "MODEL_CARD.md", ROOT / "web" / "docs" / "FlexEditKSampler.md"):
        numbers = re.findall(r"\d+\.\d+", page.read_text(encoding="utf-8"))
        assert {str(edit), str(scene)} <= set(numbers)
    samplers = [
        node["inputs"]
        for path in (ROOT / "workflows" / "api").glob("*.json")
        for node in json.loads(path.read_text(encoding="utf-8")).values()
        if node["class_type"] == "FlexEditKSampler"
    ]
    assert len(samplers) >= 4
    assert {(one["edit_cfg"], one["scene_cfg"]) for one in samplers} == {(edit, scene)}


def test_the_ablations_page_has_the_tables_that_its_logs_give():
    logs = read_logs(PACKED)
    page = PACKED.with_name("README.md").read_text(encoding="utf-8")
    assert as_markdown("Ablation", tables(logs)).partition("\n")[2].strip() in page
    shipped = fingerprint([FOLDER / WEIGHTS, FOLDER / FACTS])
    assert {log.facts["judge"] for log in logs} == {shipped}
