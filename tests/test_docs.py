"""What the documentation quotes and links is there."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

from flexedit.benchmark.judge import FACTS, FOLDER, WEIGHTS
from flexedit.benchmark.report import as_markdown
from flexedit.files import fingerprint
from studies.ablation.__main__ import PACKED
from studies.ablation.tables import tables
from studies.logs import read_logs

ROOT = Path(__file__).resolve().parents[1]
HELP = sorted((ROOT / "web" / "docs").glob("*.md"))  # a page for each node
STUDIES = sorted((ROOT / "studies").glob("*/README.md"))
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *HELP]) + STUDIES
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_and_pictures_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    for link in filter(None, (one or other for one, other in links)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in headings(target), link


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


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
