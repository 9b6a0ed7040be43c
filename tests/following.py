"""What a page tells one to do, done from its first block to its last."""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from flexedit.cli import main
from tests.pages import ROOT, SHELL, USAGE, blocks, commands, module
from tests.training.plan import forget_precision

PROGRAM = re.compile(r"^python -c '\n(.*?)^'$", re.DOTALL | re.MULTILINE)


def follow(
    page: str, exchanged: Mapping[str, str] | None = None, kept: Mapping[str, str] | None = None
) -> list[str]:
    """Runs, in the present folder, a page's programs and its commands of FlexEdit, also those that
    a target of make has → the commands.

    exchanged: words that would take long or name what is not here, and what is typed instead ·
    kept: the files in which the page says that it keeps a block, by the block's language.
    """
    exchanged, kept, ran = exchanged or {}, kept or {}, []
    for language, block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if language in kept:
            Path(kept[language]).write_text(block, encoding="utf-8")
        # every second piece is a program; a block of Python is nothing else
        pieces = ["", block] if language == "python" else PROGRAM.split(block)
        for shell, program in itertools.zip_longest(pieces[::2], pieces[1::2]):
            for command in flexedit_commands(shell) if language in SHELL else ():
                typed = command
                for old, new in exchanged.items():
                    typed = typed.replace(old, new)
                forget_precision()  # each command is a process of its own
                assert main(shlex.split(typed)) == 0, typed
                ran.append(command)
            if program:
                Path("page.py").write_text(program, encoding="utf-8")
                runpy.run_path("page.py")
    unused = [old for old in exchanged if not any(old in command for command in ran)]
    assert not unused, f"{page} does not say {unused}"
    return ran


def flexedit_commands(block: str) -> Iterator[str]:
    """The words after `python -m flexedit`, of commands for one process."""
    for command in commands(block):
        if USAGE.search(command) or command.startswith("torchrun"):
            continue
        if command.startswith("make "):  # -o: what the target needs is there
            make = ["make", "-C", str(ROOT), "--no-print-directory", "-n", "-o", ".venv/ready"]
            make += shlex.split(command)[1:]
            done = subprocess.run(make, capture_output=True, text=True, check=True)
            yield from flexedit_commands(done.stdout)
        elif (found := module(command)) and found[0] == "flexedit":
            yield shlex.join(found[1])
