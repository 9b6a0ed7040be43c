"""What the ablation found, in the shape of the paper's Tables 3 and 4."""

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
from .recipe import GROUPS, START, STRENGTH, recipe

if TYPE_CHECKING:
    import pandas as pd

MULTI = ("success", "fg_psnr", "psnr", "bg_psnr", "fg_clip_t", "lpips")
SINGLE = ("success", "bg_psnr", "bg_ssim", "fg_psnr", "bg_lpips", "fg_clip_t")


def tables(logs: Sequence[Log]) -> list[Table]:
    """All that the logs have something to say about."""
    rows = frame_of(
        {"run": log.facts["variant"], "seed": log.facts["seed"], **row}
        for log in logs
        for row in log.rows
    )
    everything = (
        in_the_papers_shape(rows, "multi", "Multi-image editing, as in the paper's Table 3", MULTI),
        in_the_papers_shape(
            rows, "single", "Single-image editing, as in the paper's Table 4", SINGLE
        ),
        by_variant(rows, logs),
        against_full(rows),
        by_mask(rows),
        by_strength(rows),
    )
    return [table for table in everything if table.is_measured]


def distinct_variants(logs: Sequence[Log]) -> list[str]:
    """In the order of the recipe; the λ sweep after them."""
    names = {str(log.facts["variant"]) for log in logs}
    variants = [name for name in recipe().variants if name in names]
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
    rows: pd.DataFrame, group: str, title: str, metrics: Sequence[str]
) -> Table:
    """Rows of the variants that the paper has; then the paper's own."""
    ours, papers = [], []
    for name, variant in recipe().variants.items():
        if not variant.paper:
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
        "Which of its last two rows is which is told by its text; CLIP-I and DINO are left out."
    )
    return Table(group, title, note, "variant", metric_columns(metrics), (*ours, *papers))


def by_variant(rows: pd.DataFrame, logs: Sequence[Log]) -> Table:
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
    for name, variant in recipe().variants.items():
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
    note = (
        "Free-shape masks. All start from the same finished model with a new adapter; it stands in "
        "the last row with its own adapter, which has trained far longer. Two variants "
        "only leave out what that model has learned before: segmentation, and rough masks. Three "
        "begin with inputs that it has never had: eq. 6 to the letter, the clean scene, and the "
        "text encoder's words, which also come without any subject picture."
    )
    return Table("variants", "All variants", note, "variant", columns, tuple(lines))


def minutes(logs: Sequence[Log]) -> str:
    """Of one training on average, by the clock times the cores that it used; "" if unknown.

    At its fastest pace: it may have been paused, or other programs have run beside it.
    """
    taken = []
    for log in logs:
        if "threads" in log.facts and len(log.curve) > 1:
            steps, seconds = ([row[key] for row in log.curve] for key in ("step", "seconds"))
            pace = (np.diff(seconds) / np.diff(steps)).min()
            taken.append(pace * steps[-1] * log.facts["threads"])
    return f"{np.mean(taken) / 60:.0f}" if taken else ""


def against_full(rows: pd.DataFrame) -> Table:
    columns = tuple(
        Column(f"{group} {metric}", name, f"{group}-image")
        for group in GROUPS
        for metric, name in (("success", "success"), ("fg_psnr", "fg PSNR"), ("bg_psnr", "bg PSNR"))
    )
    lines = []
    for name, variant in recipe().variants.items():
        if name in ("full", START):
            continue
        cells: dict[str, Cell] = {}
        seeds = seeds_of(rows, name, "full")
        for column in columns:
            group, _, metric = column.key.partition(" ")
            pair = (averaged(rows, run, seeds, group=group, form="free") for run in (name, "full"))
            cells[column.key] = difference(*pair, metric)
        if any(cells.values()):
            lines.append(TableRow("", variant.title, cells))
    note = (
        "Each variant minus FlexEdit with the same seeds, paired by case, with 95 % bootstrap "
        "intervals over cases. An interval that leaves out 0 is a difference that other cases "
        "would most likely show too; what other seeds would show, three seeds hardly tell."
    )
    return Table("differences", "Against FlexEdit", note, "variant", columns, tuple(lines))


def by_mask(rows: pd.DataFrame) -> Table:
    """What it is worth to have trained on rough masks."""
    metrics = ("success", "label_right", "iou")
    columns = (*metric_columns(metrics), Column("difference", "success, free − full"))
    lines = []
    for name in ("full", "full-masks"):
        free, full = (averaged(rows, name, form=form) for form in ("free", "full"))
        section = recipe().variants[name].title
        for title, part in (("free-shape masks", free), ("full masks", full)):
            if len(part):
                lines.append(TableRow(section, title, cells_of(part, metrics)))
        if len(free) and len(full):
            lines[-2].cells["difference"] = difference(free, full, "success")
    note = "The same cases with both forms of mask; the difference is paired by case."
    return Table("masks", "Run with rough and with full masks", note, "mask", columns, tuple(lines))


def by_strength(rows: pd.DataFrame) -> Table:
    """Each variant with the seeds that it was run with by every λ."""
    metrics = ("success", "fg_psnr", "bg_psnr")
    columns = (*metric_columns(metrics), Column("difference", "success, less that of λ = 1"))
    lines = []
    for name, variant in recipe().variants.items():
        runs = {**sweep_of(name, rows["run"].unique()), 1.0: name}
        seeds = seeds_of(rows, *runs.values())
        if not variant.is_swept or len(runs) == 1 or not seeds:
            continue
        multi = {"group": "multi", "form": "free"}
        usual = averaged(rows, name, seeds, **multi)
        for strength, run in sorted(runs.items()):
            part = averaged(rows, run, seeds, **multi)
            cells = cells_of(part, metrics)
            if strength != 1:
                cells["difference"] = difference(part, usual, "success")
            lines.append(TableRow(variant.title, f"λ = {strength:g}", cells))
    note = "Cases with a subject; the weight λ of its attention (eq. 7); they are trained with 1."
    return Table("strength", "The subject's weight", note, "λ", columns, tuple(lines))
