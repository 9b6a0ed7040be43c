import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexedit import __version__
from flexedit.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments", [[], ["paint"], ["edit"], ["mask", "circle", "--x", "a"]])
def test_a_command_that_is_not_understood_shows_how_to_say_it(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: flexedit" in capsys.readouterr().err


def test_what_is_piped_is_utf_8_wherever_it_runs():
    """Windows pipes in a code page that has no λ."""
    process = subprocess.run(
        [sys.executable, "-m", "flexedit", "edit", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert process.returncode == 0, process.stderr
    assert "λ" in process.stdout.decode("utf-8")


def test_the_version_is_said_at_once():
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flexedit", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.stdout == f"{__version__}\n"
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "PIL", "transformers", "diffusers"}
