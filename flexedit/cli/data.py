"""``data``: samples of the synthetic world."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import positive, seed


def add_command(commands: Any) -> None:
    data = commands.add_parser("data", help="write samples of the synthetic world")
    data.add_argument("--out", type=Path, required=True)
    data.add_argument("--count", type=positive, default=16)
    data.add_argument("--size", type=int, default=64)
    data.add_argument("--split", choices=("train", "heldout"), default="train")
    data.add_argument("--seed", type=seed, default=0)
    data.set_defaults(run=run_data)


def run_data(options: argparse.Namespace) -> dict[str, Any]:
    from ..data.world import World
    from ..data.world.export import write

    write(World(options.size, options.split, options.seed), range(options.count), options.out)
    return {"out": str(options.out), "samples": options.count}
