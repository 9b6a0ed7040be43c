"""What the pages tell one to type is there; test_pages.py does it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

import click
import pytest

from flexedit.cli import main, root
from tests.pages import PAGES, ROOT, module, typed

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SHOWN = [(page.name, command) for page in PAGES for command in typed(page)]


def commands_of(group: click.Group) -> Iterator[click.Command]:
    """All, also within groups; a group may do something by itself, as `data` does."""
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from commands_of(command)


@pytest.fixture
def understood(monkeypatch):
    """The command line, which reads what is typed and then does nothing."""
    for command in commands_of(root):
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


def test_what_a_page_has_measured_is_a_measurement_that_there_is():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = re.findall(r"`(?:python -m tools\.speed |make bench ARGS=)([\w ]+)`", text)
    assert len(named) >= 4
    speed = (ROOT / "tools" / "speed.py").read_text(encoding="utf-8")
    for name in " ".join(named).split():
        assert f"\ndef {name}() -> None:" in speed
