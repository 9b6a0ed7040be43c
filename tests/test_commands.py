"""What the pages tell one to type is there, and what needs no other model runs word for word."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

import click
import pytest

from flexedit.cli import main, root
from tests.pages import PAGES, ROOT, blocks, commands, module, typed

RUN = ("README.md", "docs/python.md")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SHOWN = [(page.name, command) for page in PAGES for command in typed(page)]


def leaves(command: click.Command) -> Iterator[click.Command]:
    if isinstance(command, click.Group):
        for one in command.commands.values():
            yield from leaves(one)
    else:
        yield command


@pytest.fixture
def understood(monkeypatch):
    """The command line, which reads what is typed and then does nothing."""
    for command in leaves(root):
        monkeypatch.setattr(command, "callback", lambda **options: {})
    return lambda words: main(words) == 0


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_a_command_of_a_page_is_one_that_there_is(page, command, understood, capsys):
    if target := re.match(r"make ([\w-]+)", command):
        assert re.search(rf"^{target[1]}:", MAKEFILE, re.MULTILINE)
    elif found := module(command):
        name, arguments = found
        if name == "flexedit":
            assert understood(arguments), capsys.readouterr().err
        else:
            assert importlib.util.find_spec(name)


def test_the_pages_show_many_commands():
    assert sum(module(command) is not None for _, command in SHOWN) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_page_can_be_followed_from_its_first_command_to_its_last(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for language, text in blocks(ROOT / name):
        if language == "json":  # the page says where it is saved
            (tmp_path / "samples" / "edits.jsonl").write_text(text, encoding="utf-8")
        if language == "python":
            exec(compile(text, name, "exec"), {})
        for command in commands(text) if language == "sh" else ():
            found = module(command)
            if found and found[0] == "flexedit":
                assert main(found[1]) == 0, command
    assert list(tmp_path.glob("*.png"))
