"""``train``: the embedded model anew, or any on one's own edits."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from .arguments import decay, positive, rate, training_seed


def add_commands(root: Any) -> None:
    """``root``: what ``add_subparsers`` of the root parser gave."""
    train = root.add_parser("train", help="train a model, resumably")
    commands = train.add_subparsers(required=True, metavar="what")
    mini = commands.add_parser("mini", help="flexedit-mini from nothing, stage by stage")
    mini.add_argument("--out", type=Path, default=Path("runs/mini"))
    mini.add_argument("--stages", help="comma-separated; default: all, in order")
    mini.add_argument("--start", type=Path, help="a flexedit-mini to go on from, at joint")
    mini.set_defaults(run=run_train_mini)

    own = commands.add_parser("own", help="any model on your own edits")
    own.add_argument("--data", type=Path, required=True, help="a folder with an index.jsonl")
    own.add_argument("--model", type=Path, help="a folder to go on from; default: flexedit-mini")
    own.add_argument("--out", type=Path, required=True)
    own.add_argument("--stages", default="joint", help="align, joint or align,joint")
    own.add_argument("--steps", type=positive, default=1000, help="of each stage")
    own.add_argument("--batch", type=positive, default=16, help="rows of a step, in all processes")
    own.add_argument("--accumulate", type=positive, default=1, help="parts that a step is cut into")
    own.add_argument("--lr", type=rate, help="default: 2e-4 for align, 1e-5 for joint")
    own.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    own.add_argument("--ema", type=decay, default=0.0, help="decay of averaged weights; 0 is off")
    own.add_argument(
        "--precision",
        choices=("no", "bf16", "fp16"),
        help="default: bf16 on a GPU and on a CPU that is faster in it, else no",
    )
    own.add_argument("--show", type=Path, help="edits to draw pictures of; default: of --data")
    own.add_argument("--show-every", type=positive, default=500, metavar="STEPS")
    own.set_defaults(run=run_train_own)

    for command in (mini, own):
        command.add_argument("--seed", type=training_seed, default=0, help="of samples and noise")
        command.add_argument("--threads", type=positive, help="CPU threads")
        command.add_argument("--minutes", type=float, help="stop about then; run again to go on")


def run_train_mini(options: argparse.Namespace) -> dict[str, Any]:
    from ..model_folder import ModelFolder
    from ..training.mini import ORDER, MiniTraining

    _prepare(options)
    stages = tuple(options.stages.split(",")) if options.stages else ORDER
    training = MiniTraining(options.out, seed=options.seed)
    if options.start is not None:
        training.start_from(ModelFolder(options.start))
    training.run(stages, max_seconds=_seconds(options))
    return {"out": str(options.out)}


def run_train_own(options: argparse.Namespace) -> dict[str, Any]:
    from ..data.edits import Edits
    from ..model_folder import ModelFolder
    from ..training.own import OwnTraining, own_recipe

    _prepare(options)
    start = ModelFolder(options.model) if options.model else ModelFolder.embedded()
    recipe = own_recipe(
        options.stages.split(","),
        steps=options.steps,
        batch_size=options.batch,
        lr=options.lr,
        optimizer=options.optimizer,
        accumulate=options.accumulate,
        ema=options.ema,
        mixed_precision=options.precision,
        seed=options.seed,
        validate_every=options.show_every,
    )
    size = start.config.sampling.size
    data = Edits(options.data, size, options.seed)
    shown = data if options.show is None else Edits(options.show, size, options.seed)
    finished = OwnTraining(options.out, start, data, shown, recipe).run(
        max_seconds=_seconds(options)
    )
    if not finished:
        return {"out": str(options.out), "finished": False}
    return {"out": str(options.out / "model"), "finished": True}


def _prepare(options: argparse.Namespace) -> None:
    """Takes the threads, and lets training say what it computes in."""
    import torch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)


def _seconds(options: argparse.Namespace) -> float | None:
    return None if options.minutes is None else 60 * options.minutes
