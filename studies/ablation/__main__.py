"""``python -m studies.ablation``: the paper's ablation on flexedit-mini."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from flexedit.cli import run_command
from flexedit.cli.arguments import PATH, POSITIVE, TRAINING_SEED

HERE = Path(__file__).parent
PACKED = HERE / "logs.parquet"
RUNS = Path("runs/ablation")


@click.group(help=__doc__, no_args_is_help=False)
def root() -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(root, "ablation", arguments)


@root.command()
@click.option("--logs", type=PATH, default=RUNS / "logs")
@click.option("--out", type=PATH, default=RUNS)
@click.option("--start", type=PATH, help="default: the embedded model")
@click.option("--variant", "variants", multiple=True, help="default: all")
@click.option("--seed", "seeds", type=TRAINING_SEED, multiple=True, help="default: 0, 1 and 2")
@click.option("--threads", type=POSITIVE, help="CPU threads")
def run(
    logs: Path,
    out: Path,
    start: Path | None,
    variants: tuple[str, ...],
    seeds: tuple[int, ...],
    threads: int | None,
) -> dict[str, str]:
    """Train the variants and measure them."""
    import torch

    from flexedit.model_folder import ModelFolder

    from .run import Ablation

    if threads:
        torch.set_num_threads(threads)
    model = ModelFolder(start) if start else ModelFolder.embedded()
    Ablation(model, out, logs).run(variants or None, seeds or None)
    return {"logs": str(logs)}


@root.command()
@click.option("--logs", type=PATH, default=PACKED, help="a folder or packed ones")
def tables(logs: Path) -> dict[str, str]:
    """Print what the logs say, as Markdown."""
    from flexedit.benchmark.report import as_markdown

    from .logs import read_logs
    from .tables import tables

    print(as_markdown("Ablation", tables(read_logs(logs))))
    return {}


@root.command()
@click.option("--logs", type=PATH, default=PACKED, help="a folder or packed ones")
@click.option("--out", type=PATH, default=RUNS)
def figures(logs: Path, out: Path) -> dict[str, str]:
    """Draw curves and results beside the logs."""
    from .figures import draw

    draw(logs, out)
    return {"figures": str(logs)}


@root.command()
@click.option("--logs", type=PATH, default=RUNS / "logs")
@click.option("--out", type=PATH, default=PACKED)
def pack(logs: Path, out: Path) -> dict[str, str]:
    """Write the logs of a folder as one file."""
    from .logs import pack, read_logs

    pack(read_logs(logs), out)
    return {"logs": str(out)}


if __name__ == "__main__":
    sys.exit(main())
