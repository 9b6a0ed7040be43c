"""What the ablation found, in the shape of the paper's Tables 3 and 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flexedit.benchmark.tables import Column, Table, TableRow, difference, metric_columns
from flexedit.training.recipe import read_recipe

from ..logs import Log
from ..recipe import Recipe
from ..tables import (
    against_reference,
    averaged,
    by_variant,
    cells_of,
    in_the_papers_shape,
    rows_of,
    seeds_of,
    sweep_of,
)

if TYPE_CHECKING:
    import pandas as pd

RECIPE = read_recipe(Recipe, Path(__file__).with_name("recipe.yaml"))
MULTI = ("success", "fg_psnr", "psnr", "bg_psnr", "fg_clip_t", "lpips")
SINGLE = ("success", "bg_psnr", "bg_ssim", "fg_psnr", "bg_lpips", "fg_clip_t")
LAST_ROWS = "Which of its last two rows is which is told by its text; CLIP-I and DINO are left out."
ALL_VARIANTS = (
    "Free-shape masks. All start from the same finished model with a new adapter; it stands in "
    "the last row with its own adapter, which has trained far longer. Two variants "
    "only leave out what that model has learned before: segmentation, and rough masks. Three "
    "begin with inputs that it has never had: eq. 6 to the letter, the clean scene, and the "
    "text encoder's words, which also come without any subject picture."
)


def tables(logs: Sequence[Log]) -> list[Table]:
    """All that the logs have something to say about."""
    rows = rows_of(logs)
    everything = (
        in_the_papers_shape(
            RECIPE, rows, "multi", "Multi-image editing, as in the paper's Table 3", MULTI,
            LAST_ROWS,
        ),
        in_the_papers_shape(
            RECIPE, rows, "single", "Single-image editing, as in the paper's Table 4", SINGLE,
            LAST_ROWS,
        ),
        by_variant(RECIPE, rows, logs, ALL_VARIANTS),
        against_reference(
            RECIPE, rows, "Against FlexEdit",
            "what other seeds would show, three seeds hardly tell.",
        ),
        by_mask(rows),
        by_strength(rows),
    )  # fmt: skip
    return [table for table in everything if table.is_measured]


def by_mask(rows: pd.DataFrame) -> Table:
    """What it is worth to have trained on rough masks."""
    metrics = ("success", "label_right", "iou")
    columns = (*metric_columns(metrics), Column("difference", "success, free − full"))
    lines = []
    for name in ("full", "full-masks"):
        free, full = (averaged(rows, name, form=form) for form in ("free", "full"))
        section = RECIPE.variants[name].title
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
    for name, variant in RECIPE.variants.items():
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
