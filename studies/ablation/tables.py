"""What the ablation found, in the shape of the paper's Tables 3 and 4."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flexedit.benchmark.tables import (
    Cell,
    Column,
    Estimate,
    Row,
    Rows,
    Table,
    counted,
    difference,
    estimate,
    metric_columns,
    select,
)

from .logs import KEYS, NUMBERS, Log
from .recipe import GROUPS, START, STRENGTH, recipe

MULTI = ("success", "fg_psnr", "psnr", "bg_psnr", "fg_clip_t", "lpips")
SINGLE = ("success", "bg_psnr", "bg_ssim", "fg_psnr", "bg_lpips", "fg_clip_t")


def tables(logs: Sequence[Log]) -> list[Table]:
    """All that the logs have something to say about."""
    by_name = {name: averaged(logs, name) for name in distinct_variants(logs)}
    everything = (
        in_the_papers_shape(
            by_name, "multi", "Multi-image editing, as in the paper's Table 3", MULTI
        ),
        in_the_papers_shape(
            by_name, "single", "Single-image editing, as in the paper's Table 4", SINGLE
        ),
        by_variant(by_name, logs),
        against_full(logs),
        by_mask(by_name),
        by_strength(logs),
    )
    return [table for table in everything if table.is_measured]


def title_of(variant: str) -> str:
    return recipe().variants[variant].title


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
    logs: Sequence[Log], variant: str, seeds: Container[Any] | None = None
) -> list[dict[str, Any]]:
    """One row per case and form: the mean over the seeds (default: all that there are), so that
    cases are what is resampled.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for log in logs:
        if log.facts["variant"] == variant and (seeds is None or log.facts["seed"] in seeds):
            for row in log.rows:
                groups.setdefault((row["case"], row["form"]), []).append(row)
    return [
        {key: rows[0][key] for key in KEYS} | {key: mean_of(rows, key) for key in NUMBERS}
        for rows in groups.values()
    ]


def mean_of(rows: Rows, key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return float(np.mean(values)) if values else None


def in_the_papers_shape(
    by_name: Mapping[str, Rows], group: str, title: str, metrics: Sequence[str]
) -> Table:
    """Rows of the variants that the paper has; then the paper's own."""
    rows, paper_rows = [], []
    for name, variant in recipe().variants.items():
        if variant.paper:
            if cases := select(by_name.get(name, []), group=group, form="free"):
                measured = [key for key in metrics if key in NUMBERS]
                rows.append(Row("", variant.title, cells_of(cases, measured)))
            numbers = variant.paper[group].items()
            cells: dict[str, Cell] = {key: Estimate(key, value) for key, value in numbers}
            paper_rows.append(Row("", f"{variant.title} (paper)", cells, is_reference=True))
    note = (
        "Means over cases of the mean over seeds. The paper's rows were measured at full scale, on "
        "other pictures and with other encoders: what can be compared is the order of the rows. "
        "Which of its last two rows is which is told by its text; CLIP-I and DINO are left out."
    )
    return Table(group, title, note, "variant", metric_columns(metrics), (*rows, *paper_rows))


def by_variant(by_name: Mapping[str, Rows], logs: Sequence[Log]) -> Table:
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
    rows = []
    for name, variant in recipe().variants.items():
        if cases := select(by_name.get(name, []), form="free"):
            own = [log for log in logs if log.facts["variant"] == name]
            cells: dict[str, Any] = {"seeds": str(len(own)), "minutes": minutes(own)}
            for column in columns[2:]:
                group, _, operation = column.key.partition(" ")
                part = select(cases, group=group, operation=operation) if operation else cases
                cells[column.key] = estimate(part, "success" if operation else column.key)
            rows.append(Row(variant.section, variant.title, cells))
    note = (
        "Free-shape masks. All start from the same finished model with a new adapter; it stands in "
        "the last row with its own adapter, which has trained far longer. Two variants "
        "only leave out what that model has learned before: segmentation, and rough masks. Three "
        "begin with inputs that it has never had: eq. 6 to the letter, the clean scene, and the "
        "text encoder's words, which also come without any subject picture."
    )
    return Table("variants", "All variants", note, "variant", columns, tuple(rows))


def minutes(logs: Sequence[Log]) -> str:
    """Of one training on average, by the clock times the cores that it used; "" if unknown.

    At its fastest pace: it may have been paused, or other programs have run beside it.
    """
    seconds_taken = []
    for log in logs:
        if "threads" in log.facts and len(log.curve) > 1:
            steps, seconds = ([row[key] for row in log.curve] for key in ("step", "seconds"))
            pace = (np.diff(seconds) / np.diff(steps)).min()
            seconds_taken.append(pace * steps[-1] * log.facts["threads"])
    return f"{np.mean(seconds_taken) / 60:.0f}" if seconds_taken else ""


def seeds_of(logs: Sequence[Log], variant: str) -> set[Any]:
    return {log.facts["seed"] for log in logs if log.facts["variant"] == variant}


def against_full(logs: Sequence[Log]) -> Table:
    columns = tuple(
        Column(f"{group} {metric}", name, f"{group}-image")
        for group in GROUPS
        for metric, name in (("success", "success"), ("fg_psnr", "fg PSNR"), ("bg_psnr", "bg PSNR"))
    )
    rows = []
    for name in recipe().variants:
        if name in ("full", START):
            continue
        cells: dict[str, Cell] = {}
        shared = seeds_of(logs, name) & seeds_of(logs, "full")
        pair = [averaged(logs, variant, shared) for variant in (name, "full")]
        for column in columns:
            group, _, metric = column.key.partition(" ")
            a, b = (select(cases, group=group, form="free") for cases in pair)
            cells[column.key] = difference(a, b, metric, "case")
        if any(cells.values()):
            rows.append(Row("", title_of(name), cells))
    note = (
        "Each variant minus FlexEdit with the same seeds, paired by case, with 95 % bootstrap "
        "intervals over cases. An interval that leaves out 0 is a difference that other cases "
        "would most likely show too; what other seeds would show, three seeds hardly tell."
    )
    return Table("differences", "Against FlexEdit", note, "variant", columns, tuple(rows))


def by_mask(by_name: Mapping[str, Rows]) -> Table:
    """What it is worth to have trained on rough masks."""
    metrics = ("success", "label_right", "iou")
    columns = (*metric_columns(metrics), Column("difference", "success, free − full"))
    rows = []
    for name in ("full", "full-masks"):
        free, full = (select(by_name.get(name, []), form=form) for form in ("free", "full"))
        for title, part in (("free-shape masks", free), ("full masks", full)):
            if part:
                rows.append(Row(title_of(name), title, cells_of(part, metrics)))
        if free and full:
            rows[-2].cells["difference"] = difference(free, full, "success", "case")
    note = "The same cases with both forms of mask; the difference is paired by case."
    return Table("masks", "Run with rough and with full masks", note, "mask", columns, tuple(rows))


def cells_of(cases: Rows, metrics: Sequence[str]) -> dict[str, Cell]:
    """For `metric_columns`"""
    return {"cases": counted(cases)} | {key: estimate(cases, key) for key in metrics}


def by_strength(logs: Sequence[Log]) -> Table:
    """Each variant with the seeds that it was run with by every λ."""
    metrics = ("success", "fg_psnr", "bg_psnr")
    columns = (*metric_columns(metrics), Column("difference", "success, less that of λ = 1"))
    rows = []
    for name, variant in recipe().variants.items():
        if not variant.is_swept:
            continue
        runs = {**sweep_of(name, distinct_variants(logs)), 1.0: name}
        shared = set.intersection(*(seeds_of(logs, run) for run in runs.values()))
        if len(runs) == 1 or not shared:
            continue
        usual = select(averaged(logs, name, shared), group="multi", form="free")
        for strength, run in sorted(runs.items()):
            part = select(averaged(logs, run, shared), group="multi", form="free")
            cells = cells_of(part, metrics)
            if strength != 1:
                cells["difference"] = difference(part, usual, "success", "case")
            rows.append(Row(title_of(name), f"λ = {strength:g}", cells))
    note = "Cases with a subject; the weight λ of its attention (eq. 7); they are trained with 1."
    return Table("strength", "The subject's weight", note, "λ", columns, tuple(rows))
