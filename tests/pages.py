"""The pages, and what they tell one to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HELP = sorted((ROOT / "web" / "docs").glob("*.md"))  # a page for each node
STUDIES = sorted((ROOT / "studies").glob("*/README.md"))
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *HELP]) + STUDIES
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:python -m|make|torchrun) [^`]+)`")
SHELL = ("sh", "")
PYTHON = re.compile(r"^(?:\S*/)?(?:python|torchrun .*?) -m (?:-- )?")
USAGE = re.compile(
    r"(?<!=)(?<!: )\[|…|\b[A-Z]{3,}\b(?!=)"
)  # says how a command is written, and is none


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of each block of code of a page's text."""
    for indent, language, text in BLOCK.findall(page):
        yield language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def commands(text: str) -> Iterator[str]:
    """The commands of a block for a shell: whole lines, without what is said about them."""
    for line in re.sub(r"\\\n *", "", text).splitlines():
        line = re.sub(r"(^|\s)#.*", "", line)
        yield from (command.strip() for command in line.split("&&") if command.strip())


def typed(page: Path) -> Iterator[str]:
    """Every command of a page; of one in a sentence, which may lack what it needs, the help."""
    content = page.read_text(encoding="utf-8")
    shell = [text for language, text in blocks(content) if language in SHELL]
    found = [command for text in shell for command in commands(text)]
    sentences = BLOCK.sub("", content)
    found += [one.split(" --")[0] + " --help" for one in INLINE.findall(sentences)]
    return (" ".join(command.split()) for command in found if not USAGE.search(command))


def module(command: str) -> tuple[str, list[str]] | None:
    """What `python -m` or `torchrun … -m` runs: a module and its arguments."""
    if not PYTHON.match(command):
        return None
    name, *arguments = shlex.split(PYTHON.sub("", command))
    return name, arguments
