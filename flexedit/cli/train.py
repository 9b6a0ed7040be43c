"""``train`` and ``ablation``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import decay, positive, rate, training_seed


def add_train(commands: Any) -> None:
    """``commands``: what ``add_subparsers`` of the root parser gave."""
    train = commands.add_parser("train", help="train a model, resumably")
    _add_train(train.add_subparsers(required=True, metavar="what"))


def add_ablation(commands: Any) -> None:
    ablation = commands.add_parser("ablation", help="the paper's ablation on flexedit-mini")
    _add_ablation(ablation.add_subparsers(required=True, metavar="command"))


def _add_train(commands: Any) -> None:
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
        "--precision", choices=("no", "bf16", "fp16"), help="default: bf16 on a GPU, else no"
    )
    own.add_argument("--show", type=Path, help="edits to draw pictures of; default: of --data")
    own.add_argument("--show-every", type=positive, default=500, metavar="STEPS")
    own.set_defaults(run=run_train_own)

    for command in (mini, own):
        command.add_argument("--seed", type=training_seed, default=0, help="of samples and noise")
        command.add_argument("--threads", type=positive, help="CPU threads")
        command.add_argument("--minutes", type=float, help="stop about then; run again to go on")


def _add_ablation(commands: Any) -> None:
    run = commands.add_parser("run", help="train the variants and measure them")
    tables = commands.add_parser("tables", help="print what the logs say, as Markdown")
    figures = commands.add_parser("figures", help="draw curves and results beside the logs")
    for command in (run, tables, figures):
        command.add_argument("--logs", type=Path, default=Path("docs/ablation"))
    for command in (run, figures):
        command.add_argument("--out", type=Path, default=Path("runs/ablation"))
    run.add_argument("--start", type=Path, help="default: the embedded model")
    run.add_argument("--variant", action="append", help="default: all")
    run.add_argument("--seed", type=training_seed, action="append", help="default: 0, 1 and 2")
    run.add_argument("--threads", type=positive, help="CPU threads")
    run.set_defaults(run=run_ablation)
    tables.set_defaults(run=run_ablation_tables)
    figures.set_defaults(run=run_ablation_figures)


def run_train_mini(options: argparse.Namespace) -> dict[str, Any]:
    from ..checkpoint import ModelFolder
    from ..training.stages import ORDER, MiniTraining

    _take_threads(options)
    stages = tuple(options.stages.split(",")) if options.stages else ORDER
    training = MiniTraining(options.out, seed=options.seed)
    if options.start is not None:
        training.take_up(ModelFolder(options.start))
    training.run(stages, _seconds(options))
    return {"out": str(options.out)}


def run_train_own(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from ..checkpoint import ModelFolder
    from ..data.edits import Edits
    from ..training.own import LEARNING_RATES, OwnTraining
    from ..training.stages import num_workers
    from ..training.trainer import TrainConfig

    _take_threads(options)
    start = ModelFolder(options.model) if options.model else ModelFolder.embedded()
    on_gpu = torch.cuda.is_available()
    stages = {
        name: TrainConfig(
            steps=options.steps,
            batch_size=options.batch,
            lr=LEARNING_RATES.get(name, 0.0) if options.lr is None else options.lr,
            optimizer=options.optimizer,
            accumulate=options.accumulate,
            ema=options.ema,
            mixed_precision=options.precision or ("bf16" if on_gpu else "no"),
            seed=options.seed,
            validate_every=options.show_every,
            num_workers=num_workers() if on_gpu else 0,
        )
        for name in options.stages.split(",")
    }
    size = start.config.sampling.size
    data = Edits(options.data, size, options.seed)
    shown = data if options.show is None else Edits(options.show, size, options.seed)
    finished = OwnTraining(options.out, start, data, shown, stages).run(_seconds(options))
    if not finished:
        return {"out": str(options.out), "finished": False}
    return {"out": str(options.out / "model"), "finished": True}


def _take_threads(options: argparse.Namespace) -> None:
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)


def _seconds(options: argparse.Namespace) -> float | None:
    return None if options.minutes is None else 60 * options.minutes


def run_ablation(options: argparse.Namespace) -> dict[str, Any]:
    from ..checkpoint import ModelFolder
    from ..training.ablation import SEEDS, VARIANTS, Ablation

    _take_threads(options)
    start = ModelFolder(options.start) if options.start else ModelFolder.embedded()
    ablation = Ablation(start, options.out, options.logs)
    ablation.run(tuple(options.variant or VARIANTS), tuple(options.seed or SEEDS))
    return {"logs": str(options.logs)}


def run_ablation_tables(options: argparse.Namespace) -> dict[str, Any]:
    from ..benchmark.ablation import read_logs, tables
    from ..benchmark.report import as_markdown

    print(as_markdown("Ablation", tables(read_logs(options.logs))))
    return {}


def run_ablation_figures(options: argparse.Namespace) -> dict[str, Any]:
    from ..benchmark.figures import draw

    draw(options.logs, options.out)
    return {"figures": str(options.logs)}
