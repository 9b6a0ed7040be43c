"""``data``: samples of the synthetic world."""

from __future__ import annotations

from pathlib import Path

import click

from .arguments import PATH, POSITIVE, SEED, Report


@click.command()
@click.option("--out", type=PATH, required=True)
@click.option("--count", type=POSITIVE, default=16)
@click.option("--size", type=int, default=64)
@click.option("--split", type=click.Choice(("train", "heldout")), default="train")
@click.option("--seed", type=SEED, default=0)
def data(out: Path, count: int, size: int, split: str, seed: int) -> Report:
    """Write samples of the synthetic world."""
    from ..data.world import World
    from ..data.world.export import write

    write(World(size, split, seed), range(count), out)
    return {"out": str(out), "samples": count}
