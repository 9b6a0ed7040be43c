"""What the comparison of the systems found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flexedit.benchmark.tables import Cell, Column, Table, TableRow, difference, estimate
from flexedit.training.recipe import read_recipe

from ..logs import Log
from ..recipe import WORDS, Recipe
from ..tables import against_reference, averaged, by_variant, in_the_papers_shape, rows_of

if TYPE_CHECKING:
    import pandas as pd

RECIPE = read_recipe(Recipe, Path(__file__).with_name("recipe.yaml"))
MULTI = ("success", "fg_psnr", "psnr", "bg_psnr", "fg_clip_t", "lpips")
SINGLE = ("success", "bg_psnr", "bg_ssim", "fg_psnr", "bg_lpips", "fg_clip_t")
ALL_SYSTEMS = (
    "Free-shape masks, which InstructPix2Pix and MGIE as published do not have: here the scribble "
    "is painted on the scene for all. Only FlexEdit's adapter reads the subject's picture; the "
    "VLLM of the others sees it too, InstructPix2Pix never does."
)


def tables(logs: Sequence[Log]) -> list[Table]:
    """All that the logs have something to say about."""
    rows = rows_of(logs)
    everything = (
        by_variant(RECIPE, rows, logs, ALL_SYSTEMS),
        against_reference(
            RECIPE, rows, "Against FlexEdit", "what other seeds would show, two hardly tell."
        ),
        by_guidance(rows),
        in_the_papers_shape(
            RECIPE, rows, "single", "Single-image editing, as in the paper's Table 2", SINGLE, ""
        ),
        in_the_papers_shape(
            RECIPE, rows, "multi", "Multi-image editing, as in the paper's Table 1", MULTI, ""
        ),
    )
    return [table for table in everything if table.is_measured]


def by_guidance(rows: pd.DataFrame) -> Table:
    """What tells a system where: a rough mask, a full one, or words alone."""
    columns = (
        Column("free", "free-shape mask", "success %"),
        Column("full", "full mask", "success %"),
        Column("words", "words alone", "success %"),
        Column("free − full", "free-shape − full", "paired"),
        Column("free − words", "free-shape − words", "paired"),
    )
    lines = []
    for name, variant in RECIPE.variants.items():
        free, full = (named_objects(averaged(rows, name, form=form)) for form in ("free", "full"))
        words = named_objects(averaged(rows, name + WORDS))
        if free.empty:
            continue
        cells: dict[str, Cell] = {
            "free": estimate(free["success"]),
            "full": estimate(full["success"]),
            "words": estimate(words["success"]),
        }
        if len(full):
            cells["free − full"] = difference(free, full, "success")
        if len(words):
            cells["free − words"] = difference(free, words, "success")
        lines.append(TableRow("", variant.title, cells))
    note = (
        "Removals and replacements with one picture. By words alone there is no mask, and the "
        "instruction names what is meant; a quarter of the edits are trained so."
    )
    return Table("guidance", "What says where", note, "system", columns, tuple(lines))


def named_objects(cases: pd.DataFrame) -> pd.DataFrame:
    """Edits of one picture of something that words can name."""
    return cases[(cases["group"] == "single") & (cases["operation"] != "add")]
