"""Figures of a study: how its variants learn, and what they make of the same cases."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flexedit.benchmark.cases import Benchmark
from flexedit.benchmark.page import outlined
from flexedit.errors import FlexEditError

from .cases import cases, first_of_each
from .logs import SHOWN_SEED, Log, picture_file, read_logs, read_pictures
from .recipe import START, Recipe
from .tables import distinct_variants, sweep_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED = 10  # logged rows that a point of a curve is the mean of
DPI = 110


def draw(recipe: Recipe, logs: Path, out: Path) -> None:
    """Writes ``curves.png`` and, of what was run with the first seed, ``cases.png`` and
    ``strengths.png`` to the folder of the logs.

    out: where the cases are, or are built if they are not there
    """
    read, folder = read_logs(logs), logs.parent if logs.is_file() else logs
    curves(recipe, read).savefig(folder / "curves.png", dpi=DPI)
    names = distinct_variants(recipe, read)
    variants = [START, *(name for name in names if name in recipe.variants and name != START)]
    sweep = sweep_of(START, names)  # of the one that has trained the longest
    if sweep:
        sweep[1.0] = START
    for file, titles in (
        ("cases.png", {name: recipe.variants[name].title for name in variants if name in names}),
        ("strengths.png", {name: f"λ = {strength:g}" for strength, name in sorted(sweep.items())}),
    ):
        results = {
            title: read_pictures(folder, f"{name}-{SHOWN_SEED}")
            for name, title in titles.items()
            if picture_file(folder, f"{name}-{SHOWN_SEED}").is_file()
        }
        if results:
            benchmark = cases(out, recipe.num_single, recipe.num_multi)
            same_cases(benchmark, results).savefig(folder / file, dpi=DPI)


def curves(recipe: Recipe, logs: Sequence[Log]) -> Figure:
    """The error of the predicted latent by step, the mean over a variant's seeds; and how far it is
    from the reference's of the same seeds, for the variants that saw the same batches and noises.
    """
    page = blank(11, 5)
    errors, differences = page.subplots(1, 2)
    reference = recipe.variants[recipe.reference].title
    of_reference = errors_by_seed(logs, recipe.reference)
    for number, (name, variant) in enumerate(recipe.variants.items()):
        of_variant = errors_by_seed(logs, name)
        if variant.run_as is not None or not of_variant:
            continue
        look = {"label": variant.title, "color": f"C{number}", "linewidth": 1.2}
        errors.plot(*smoothed(list(of_variant.values())), **look)
        paired = [
            {step: error - of_reference[seed][step] for step, error in curve.items()}
            for seed, curve in of_variant.items()
            if of_reference.get(seed, {}).keys() >= curve.keys()
        ]
        if paired and name != recipe.reference and not variant.has_own_data:
            differences.plot(*smoothed(paired), **look)
    errors.set(title="error of the predicted latent", xlabel="step")
    differences.set(title=f"the same, less that of {reference} on the same batches", xlabel="step")
    differences.axhline(0, color="C0", linewidth=1.2)
    page.legend(*errors.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    for panel in (errors, differences):
        panel.grid(alpha=0.3)
    return page


def errors_by_seed(logs: Sequence[Log], variant: str) -> dict[int, dict[float, float]]:
    """{seed: {step: error}}"""
    return {
        log.facts["seed"]: {row["step"]: row["diffusion"] for row in log.curve}
        for log in logs
        if log.facts["variant"] == variant and log.curve
    }


def smoothed(curves: Sequence[Mapping[float, float]]) -> tuple[list[float], np.ndarray]:
    """Steps, and at each the mean over the curves of SMOOTHED values up to there."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = np.mean([[curve[step] for step in steps] for curve in curves], axis=0)
    window = min(SMOOTHED, len(steps))
    return steps[window - 1 :], np.convolve(means, np.full(window, 1 / window), "valid")


def same_cases(benchmark: Benchmark, results: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """A row for the first case of each operation: scene, truth, then what each variant made of it.

    results: by title, for all those cases or for those with a subject, which come last; shown are
    the cases that all have
    """
    titles = ("scene", "truth", *results)
    count = min(map(len, results.values()))
    shown = first_of_each(benchmark)[-count:]
    page = blank(1.35 * len(titles), 1.6 * len(shown))
    grid = page.subplots(len(shown), len(titles), squeeze=False)
    for number, (row, case) in enumerate(zip(grid, shown, strict=True)):
        scene, mask = (benchmark.picture(case, name) for name in ("scene", "mask"))
        made = (pictures[number - count] for pictures in results.values())
        pictures = (outlined(scene, mask), benchmark.picture(case, "truth"), *made)
        for panel, picture in zip(row, pictures, strict=True):
            panel.axis("off")
            panel.imshow(picture, interpolation="nearest")
        row[0].set_title(f"“{case.instruction}”", fontsize="xx-small", loc="left")
        if case.subject:
            inset = row[0].inset_axes((0.62, 0.0, 0.38, 0.38))
            inset.imshow(benchmark.picture(case, "subject"))
            inset.set(xticks=(), yticks=())
    for panel, title in zip(grid[-1], titles, strict=True):
        below = {"ha": "center", "va": "top", "transform": panel.transAxes}
        panel.text(0.5, -0.06, "\n".join(textwrap.wrap(title, 18)), fontsize="xx-small", **below)
    return page


def blank(width: float, height: float) -> Figure:
    """A figure in inches. FlexEditError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FlexEditError("Figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")
