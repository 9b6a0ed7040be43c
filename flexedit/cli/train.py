"""``train``: the embedded model from scratch, or any model on your own edits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from .arguments import PATH, POSITIVE, TRAINING_SEED, Report, finite, together

MIXTURES = (".yaml", ".yml")

common_options = together(
    click.option("--seed", type=TRAINING_SEED, default=0, help="of samples and noise"),
    click.option("--threads", type=POSITIVE, help="CPU threads"),
    click.option(
        "--minutes",
        "seconds",
        type=float,
        callback=lambda _, __, minutes: None if minutes is None else 60 * minutes,
        help="stop after about that time; run again to continue",
    ),
)


@click.group(no_args_is_help=False)
def train() -> None:
    """Train a model, resumably."""


@train.command()
@click.option("--out", type=PATH, default=Path("runs/mini"))
@click.option("--stages", help="comma-separated; default: all, in order")
@click.option("--start", type=PATH, help="a flexedit-mini to continue from, at joint")
@common_options
def mini(out: Path, stages: str | None, start: Path | None, seed: int, **limits: Any) -> Report:
    """Train flexedit-mini from scratch, stage by stage."""
    from ..model_folder import ModelFolder
    from ..training.mini import MiniTraining

    _prepare(limits["threads"])
    training = MiniTraining(out, seed=seed)
    if start is not None:
        training.start_from(ModelFolder(start))
    training.run(stages.split(",") if stages else None, limits["seconds"])
    return {"out": str(out)}


@train.command()
@click.option(
    "--data",
    type=PATH,
    required=True,
    help="a folder with an index.jsonl, NAME:PATHS or a mixture's YAML",
)
@click.option("--model", type=PATH, help="a folder to continue from; default: flexedit-mini")
@click.option("--out", type=PATH, required=True)
@click.option("--stages", default="joint", help="align, joint or align,joint")
@click.option("--steps", type=POSITIVE, default=1000, help="of each stage")
@click.option(
    "--batch", "batch_size", type=POSITIVE, default=16, help="rows of a step, in all processes"
)
@click.option("--accumulate", type=POSITIVE, default=1, help="parts that a step is cut into")
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
    help="default: 2e-4 for align, 1e-5 for joint",
)
@click.option("--optimizer", type=click.Choice(("adamw", "muon")), default="adamw")
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    callback=finite,
    help="decay of averaged weights; 0 is off",
)
@click.option(
    "--precision",
    "mixed_precision",
    type=click.Choice(("no", "bf16", "fp16")),
    help="default: bf16 on a GPU and on a CPU that is faster in it, else no",
)
@click.option("--show", type=PATH, help="edits to draw pictures of; default: of --data")
@click.option("--show-every", "validate_every", type=POSITIVE, default=500, metavar="STEPS")
@common_options
def own(
    data: Path, model: Path | None, out: Path, stages: str, show: Path | None, **settings: Any
) -> Report:
    """Train any model on your own edits."""
    from ..data.readers import reader_from

    source: Any = str(data)
    if data.suffix not in MIXTURES:
        source = reader_from(source)
        _ = source.rows  # read now: a mistake in them is told before torch is imported

    from ..data.mixture import samples_from
    from ..model_folder import ModelFolder
    from ..training.own import OwnTraining, own_recipe

    _prepare(settings.pop("threads"))
    seconds = settings.pop("seconds")
    start = ModelFolder(model) if model else ModelFolder.embedded()
    recipe = own_recipe(stages.split(","), **settings)
    size, seed = start.config.sampling.size, settings["seed"]
    edits = samples_from(source, size, seed)
    shown = samples_from(str(show), size, seed) if show else edits
    finished = OwnTraining(out, start, edits, shown, recipe).run(max_seconds=seconds)
    return {"out": str(out / "model" if finished else out), "finished": finished}


def _prepare(threads: int | None) -> None:
    """Takes the threads, and lets training say what it computes in."""
    import torch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if threads:
        torch.set_num_threads(threads)
