"""Commands as a person types them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexedit.cli import main


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def complaint(capsys: pytest.CaptureFixture) -> str:
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("flexedit: ") and output.err.count("\n") == 1
    return output.err
