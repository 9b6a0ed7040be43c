"""``data``: samples of the synthetic world; what is in a data set or a mixture."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .arguments import AS_JSON, PATH, POSITIVE, SEED, Report, framing_option, json_option, together

drawn_options = together(
    click.argument("source"),
    click.option("--size", type=click.IntRange(min=8), default=256, help="pixels a side"),
    click.option("--seed", type=SEED, default=0),
)


@click.group(invoke_without_command=True)
@click.option("--out", type=PATH)
@click.option("--count", type=POSITIVE, default=16)
@click.option("--size", type=int, default=64)
@click.option("--split", type=click.Choice(("train", "heldout")), default="train")
@click.option("--seed", type=SEED, default=0)
@framing_option
@click.pass_context
def data(
    context: click.Context,
    out: Path | None,
    count: int,
    size: int,
    split: str,
    seed: int,
    framing: str,
) -> Report:
    """Write samples of the synthetic world; or look at data."""
    if context.invoked_subcommand is not None:
        return {}
    if out is None:
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    from ..data.world import World
    from ..data.world.export import write

    write(World(size, split, seed, framing=framing), range(count), out)
    return {"out": str(out), "samples": count}


@data.command()
@drawn_options
@click.option("--count", type=POSITIVE, default=24)
@click.option("--columns", type=POSITIVE, default=3)
@click.option("--out", type=PATH, default=Path("preview.jpg"))
@json_option
def preview(source: str, size: int, seed: int, count: int, columns: int, out: Path) -> Report:
    """Draw samples of SOURCE, as training sees them: scene, target, subject, words.

    SOURCE: what --data of train is.
    """
    import numpy as np

    from ..data.mixture import samples_from
    from ..data.preview import sheet
    from ..data.sample import pictures
    from ..files import write_picture

    samples = samples_from(source, size, seed)
    drawn = sheet([samples[index] for index in range(count)], columns)
    write_picture(pictures([np.asarray(drawn)])[0], out)
    return {"out": str(out), "samples": count}


@data.command()
@drawn_options
@click.option("--count", type=POSITIVE, default=1000, help="samples to draw")
@json_option
@click.pass_context
def stats(context: click.Context, source: str, size: int, seed: int, count: int) -> Report:
    """Count what SOURCE has, and what training would see of it."""
    from ..data.mixture import samples_from
    from ..data.preview import statistics

    found = statistics(samples_from(source, size, seed), count)
    if context.meta.get(AS_JSON):
        return found
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return {}
