"""``python -m studies.ablation``: the paper's ablation on flexedit-mini."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from flexedit.errors import FlexEditError

PACKED = Path(__file__).with_name("logs.parquet")
RUNS = Path("runs/ablation")
PATH = click.Path(path_type=Path)


@click.group(help=__doc__)
def commands() -> None:
    pass


@commands.command()
@click.option("--logs", type=PATH, default=RUNS / "logs")
@click.option("--out", type=PATH, default=RUNS)
@click.option("--start", type=PATH, help="default: the embedded model")
@click.option("--variant", multiple=True, help="default: all")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), multiple=True, help="default: 0 to 2")
@click.option("--threads", type=click.IntRange(1), help="CPU threads")
def run(
    logs: Path,
    out: Path,
    start: Path | None,
    variant: tuple[str, ...],
    seed: tuple[int, ...],
    threads: int | None,
) -> None:
    """Train the variants and measure them."""
    import torch

    from flexedit.model_folder import ModelFolder

    from .run import Ablation

    if threads:
        torch.set_num_threads(threads)
    model = ModelFolder(start) if start else ModelFolder.embedded()
    Ablation(model, out, logs).run(variant or None, seed or None)
    print(f"logs: {logs}")


@commands.command()
@click.option("--logs", type=PATH, default=PACKED, help="a folder or packed ones")
def tables(logs: Path) -> None:
    """Print what the logs say, as Markdown."""
    from flexedit.benchmark.report import as_markdown

    from .logs import read_logs
    from .tables import tables

    print(as_markdown("Ablation", tables(read_logs(logs))))


@commands.command()
@click.option("--logs", type=PATH, default=PACKED, help="a folder or packed ones")
@click.option("--out", type=PATH, default=RUNS)
def figures(logs: Path, out: Path) -> None:
    """Draw curves and results beside the logs."""
    from .figures import draw

    draw(logs, out)
    print(f"figures: {logs}")


@commands.command()
@click.option("--logs", type=PATH, default=RUNS / "logs")
@click.option("--out", type=PATH, default=PACKED)
def pack(logs: Path, out: Path) -> None:
    """Write the logs of a folder as one file."""
    from .logs import pack, read_logs

    pack(read_logs(logs), out)
    print(f"logs: {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        commands.main(arguments, "python -m studies.ablation", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (FlexEditError, OSError) as error:
        print(f"ablation: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
