import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexedit import __version__
from flexedit.cli import main

ROOT = Path(__file__).resolve().parents[2]
EDIT = "edit --scene nowhere.png --instruction x --out out.png"


def process(words: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *options, "-m", "flexedit", *words.split()],
        cwd=ROOT,
        env=os.environ | environment,
        encoding="utf-8",
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Missing command"),
        ("paint", "No such command 'paint'"),
        ("edit", "Missing option '--scene'"),
        (f"{EDIT} --edit-cfg nan", "'--edit-cfg': nan is not finite"),
        (f"{EDIT} --subject-strength inf", "'--subject-strength': inf is not finite"),
        (f"{EDIT} --scene-cfg much", "'--scene-cfg': 'much' is not a valid float"),
        (f"{EDIT} --seed one", "'--seed': 'one' is not a valid integer"),
        (f"{EDIT} --seed -1", "'--seed': -1 is not in the range"),
        (f"{EDIT} --seed {2**63}", f"'--seed': {2**63} is not in the range"),
        ("batch --list a.jsonl --out b --part 3/2", "'--part': 3/2 is not a part"),
        ("batch --list a.jsonl --out b --part 2", "'--part': 2 is not a part"),
        ("mask circle --size -5 10 --out a.png", "'--size': -5 is not in the range"),
        ("mask circle --x a --out a.png", "'--x': 'a' is not a valid float"),
        (f"train mini --seed {2**32}", f"'--seed': {2**32} is not in the range"),
    ],
)
def test_a_command_that_is_not_understood_shows_how_to_say_it(words, message, capsys):
    assert main(words.split()) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Usage: flexedit") and message in shown


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--version", 0, f"{__version__}\n"),
        ("batch --help", 0, "JSONL, an edit a line"),
        ("edit", 2, "Missing option"),
        (EDIT, 2, "nowhere.png cannot be read"),
        ("interpret --scene nowhere.png", 2, "nowhere.png cannot be read"),
        ("batch --list nowhere.jsonl --out out", 2, "nowhere.jsonl cannot be read"),
        ("train own --data nowhere --out out", 2, "index.jsonl cannot be read"),
    ],
)
def test_what_needs_no_torch_is_said_without_it(words, code, said):
    done = process(words, "-X", "importtime")
    assert done.returncode == code and said in done.stdout + done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click.core" in imported
    assert not imported & {"torch", "transformers", "diffusers"}


def test_what_is_piped_is_utf_8_wherever_it_runs():
    """Windows pipes in a code page that has no λ."""
    done = process("edit --help", PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "λ" in done.stdout
