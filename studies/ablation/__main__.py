"""``python -m studies.ablation``: the paper's ablation on flexedit-mini."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..commands import LOGS, commands, run_commands
from .tables import RECIPE, tables

FOLDER = Path(__file__).parent
PACKED = FOLDER / LOGS
GROUP = commands("Ablation", FOLDER, RECIPE, tables)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_commands(GROUP, "ablation", arguments)


if __name__ == "__main__":
    sys.exit(main())
