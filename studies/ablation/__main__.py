"""``python -m studies.ablation``: the paper's ablation on flexedit-mini."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flexedit.cli.arguments import positive, training_seed
from flexedit.errors import FlexEditError

HERE = Path(__file__).parent
PACKED = HERE / "logs.parquet"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except (FlexEditError, OSError) as error:
        print(f"ablation: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m studies.ablation", description=__doc__)
    commands = root.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="train the variants and measure them")
    tables = commands.add_parser("tables", help="print what the logs say, as Markdown")
    figures = commands.add_parser("figures", help="draw curves and results beside the logs")
    pack = commands.add_parser("pack", help="write the logs of a folder as one file")
    for command in (tables, figures):
        command.add_argument("--logs", type=Path, default=PACKED, help="a folder or packed ones")
    for command in (run, pack):
        command.add_argument("--logs", type=Path, default=Path("runs/ablation/logs"))
    for command in (run, figures):
        command.add_argument("--out", type=Path, default=Path("runs/ablation"))
    pack.add_argument("--out", type=Path, default=PACKED)
    run.add_argument("--start", type=Path, help="default: the embedded model")
    run.add_argument("--variant", action="append", help="default: all")
    run.add_argument("--seed", type=training_seed, action="append", help="default: 0, 1 and 2")
    run.add_argument("--threads", type=positive, help="CPU threads")
    run.set_defaults(run=run_ablation)
    tables.set_defaults(run=run_tables)
    figures.set_defaults(run=run_figures)
    pack.set_defaults(run=run_pack)
    return root


def run_ablation(options: argparse.Namespace) -> None:
    import torch

    from flexedit.model_folder import ModelFolder

    from .run import Ablation

    if options.threads:
        torch.set_num_threads(options.threads)
    start = ModelFolder(options.start) if options.start else ModelFolder.embedded()
    ablation = Ablation(start, options.out, options.logs)
    ablation.run(options.variant, options.seed)
    print(f"logs: {options.logs}")


def run_tables(options: argparse.Namespace) -> None:
    from flexedit.benchmark.report import as_markdown

    from .logs import read_logs
    from .tables import tables

    print(as_markdown("Ablation", tables(read_logs(options.logs))))


def run_figures(options: argparse.Namespace) -> None:
    from .figures import draw

    draw(options.logs, options.out)
    print(f"figures: {options.logs}")


def run_pack(options: argparse.Namespace) -> None:
    from .logs import pack, read_logs

    pack(read_logs(options.logs), options.out)
    print(f"logs: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
