"""The commands of a study: run, tables, figures, pack."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from flexedit.benchmark.tables import Table
from flexedit.errors import FlexEditError

from .logs import Log
from .recipe import Recipe

PATH = click.Path(path_type=Path)
LOGS = "logs.parquet"  # what is kept of a study, beside its recipe


def commands(
    title: str, folder: Path, recipe: Recipe, tables: Callable[[Sequence[Log]], list[Table]]
) -> click.Group:
    """Of the study in ``folder``, whose tables have a title."""
    packed, runs = folder / LOGS, Path("runs") / folder.name

    @click.group()
    def group() -> None:
        pass

    @group.command("run")
    @click.option("--logs", type=PATH, default=runs / "logs")
    @click.option("--out", type=PATH, default=runs)
    @click.option("--start", type=PATH, help="default: the embedded model")
    @click.option("--variant", multiple=True, help="default: all")
    @click.option("--seed", type=click.IntRange(0, 2**32 - 1), multiple=True, help="default: all")
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

        from .run import Study

        if threads:
            torch.set_num_threads(threads)
        model = ModelFolder(start) if start else ModelFolder.embedded()
        Study(recipe, model, out, logs).run(variant or None, seed or None)
        print(f"logs: {logs}")

    @group.command("tables")
    @click.option("--logs", type=PATH, default=packed, help="a folder or packed ones")
    def print_tables(logs: Path) -> None:
        """Print what the logs say, as Markdown."""
        from flexedit.benchmark.report import as_markdown

        from .logs import read_logs

        print(as_markdown(title, tables(read_logs(logs))))

    @group.command("figures")
    @click.option("--logs", type=PATH, default=packed, help="a folder or packed ones")
    @click.option("--out", type=PATH, default=runs)
    def figures(logs: Path, out: Path) -> None:
        """Draw curves and results beside the logs."""
        from .figures import draw

        draw(recipe, logs, out)
        print(f"figures: {logs}")

    @group.command("pack")
    @click.option("--logs", type=PATH, default=runs / "logs")
    @click.option("--out", type=PATH, default=packed)
    def pack_logs(logs: Path, out: Path) -> None:
        """Write the logs of a folder as one file."""
        from .logs import pack, read_logs

        pack(read_logs(logs), out)
        print(f"logs: {out}")

    return group


def run_commands(group: click.Group, name: str, arguments: Sequence[str] | None = None) -> int:
    """The exit code of ``python -m studies.NAME``: 2 with one line for what cannot be done."""
    try:
        group.main(arguments, f"python -m studies.{name}", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (FlexEditError, OSError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
