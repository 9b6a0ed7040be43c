"""What a study found, in the shape of the paper's Tables 3 and 4."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flexedit.benchmark.tables import (
    Cell,
    Column,
    Estimate,
    Table,
    TableRow,
    counted,
    difference,
    estimate,
    frame_of,
    metric_columns,
    select,
)

from .logs import KEYS, NUMBERS, Log
from .recipe import GROUPS, START, STRENGTH, Recipe

if TYPE_CHECKING:
    import pandas as pd


def rows_of(logs: Sequence[Log]) -> pd.DataFrame:
    """A row per case, form, run and seed"""
    return frame_of(
        {"run": log.facts["variant"], "seed": log.facts["seed"], **row}
        for log in logs
        for row in log.rows
    )


def distinct_variants(recipe: Recipe, logs: Sequence[Log]) -> list[str]:
    """In the order of the recipe; the λ sweep after them."""
    names = {str(log.facts["variant"]) for log in logs}
    variants = [name for name in recipe.variants if name in names]
    return variants + [name for variant in variants for name in sweep_of(variant, names).values()]


def sweep_of(variant: str, names: Iterable[str]) -> dict[float, str]:
    """By λ, in order, the names of a variant's runs with another λ than 1."""
    prefix = variant + STRENGTH
    sweep = {float(name.removeprefix(prefix)): name for name in names if name.startswith(prefix)}
    return dict(sorted(sweep.items()))


def averaged(
    rows: pd.DataFrame, run: str, seeds: Container[Any] | None = None, **wanted: str
) -> pd.DataFrame:
    """One row per case and form: the mean over the seeds (default: all that there are), so that
    cases are what is resampled.
    """
    rows = select(rows, run=run, **wanted)
    if seeds is not None:
        rows = rows[rows["seed"].isin(seeds)]
    summary = dict.fromkeys(KEYS, "first") | dict.fromkeys(NUMBERS, "mean")
    return rows.groupby(["case", "form"], sort=False).agg(summary).reset_index(drop=True)


def seeds_of(rows: pd.DataFrame, *runs: str) -> set[Any]:
    """Those that all these were run with."""
    return set.intersection(*(set(select(rows, run=run)["seed"]) for run in runs))


def cells_of(cases: pd.DataFrame, metrics: Sequence[str]) -> dict[str, Cell]:
    """For `metric_columns`"""
    return {"cases": counted(cases)} | {key: estimate(cases[key]) for key in metrics}


def in_the_papers_shape(
    recipe: Recipe, rows: pd.DataFrame, group: str, title: str, metrics: Sequence[str], note: str
) -> Table:
    """Rows of the variants that the paper has; then the paper's own."""
    ours, papers = [], []
    for name, variant in recipe.variants.items():
        if group not in variant.paper:
            continue
        cases = averaged(rows, name, group=group, form="free")
        if len(cases):
            measured = [key for key in metrics if key in NUMBERS]
            ours.append(TableRow("", variant.title, cells_of(cases, measured)))
        numbers = variant.paper[group].items()
        cells: dict[str, Cell] = {key: Estimate(key, value) for key, value in numbers}
        papers.append(TableRow("", f"{variant.title} (paper)", cells, is_reference=True))
    note = (
        "Means over cases of the mean over seeds. The paper's rows were measured at full scale, on "
        "other pictures and with other encoders: what can be compared is the order of the rows. "
        + note
    )
    return Table(group, title, note, "variant", metric_columns(metrics), (*ours, *papers))


def by_variant(recipe: Recipe, rows: pd.DataFrame, logs: Sequence[Log], note: str) -> Table:
    """What each variant understands and achieves, with free-shape masks."""
    columns = (
        Column("seeds", "seeds"),
        Column("minutes", "core minutes of training, at least"),
        Column("label_right", "label accuracy %"),
        Column("iou", "painted IoU"),
        *(Column(f"single {name}", name, "success %") for name in ("remove", "replace", "add")),
        *(Column(f"multi {name}", f"subject {name}", "success %") for name in ("add", "replace")),
        Column("success", "all", "success %"),
        Column("bg_psnr", "background PSNR"),
    )
    lines = []
    for name, variant in recipe.variants.items():
        cases = averaged(rows, name, form="free")
        if cases.empty:
            continue
        own = [log for log in logs if log.facts["variant"] == name]
        cells: dict[str, Any] = {"seeds": str(len(own)), "minutes": minutes(own)}
        for column in columns[2:]:
            group, _, operation = column.key.partition(" ")
            part = select(cases, group=group, operation=operation) if operation else cases
            cells[column.key] = estimate(part["success" if operation else column.key])
        lines.append(TableRow(variant.section, variant.title, cells))
    return Table("variants", "All variants", note, "variant", columns, tuple(lines))


def minutes(logs: Sequence[Log]) -> str:
    """Of one training on average; "" if unknown."""
    taken = [log.core_minutes for log in logs if log.core_minutes is not None]
    return f"{np.mean(taken):.0f}" if taken else ""


def against_reference(recipe: Recipe, rows: pd.DataFrame, title: str, note: str = "") -> Table:
    columns = tuple(
        Column(f"{group} {metric}", name, f"{group}-image")
        for group in GROUPS
        for metric, name in (("success", "success"), ("fg_psnr", "fg PSNR"), ("bg_psnr", "bg PSNR"))
    )
    lines = []
    for name, variant in recipe.variants.items():
        if name in (recipe.reference, START):
            continue
        cells: dict[str, Cell] = {}
        seeds = seeds_of(rows, name, recipe.reference)
        for column in columns:
            group, _, metric = column.key.partition(" ")
            pair = (
                averaged(rows, run, seeds, group=group, form="free")
                for run in (name, recipe.reference)
            )
            cells[column.key] = difference(*pair, metric)
        if any(cells.values()):
            lines.append(TableRow("", variant.title, cells))
    note = (
        f"Each variant minus {recipe.variants[recipe.reference].title} with the same seeds, paired "
        "by case, with 95 % bootstrap intervals over cases. An interval that leaves out 0 is a "
        f"difference that other cases would most likely show too; {note}"
    )
    return Table("differences", title, note, "variant", columns, tuple(lines))
