"""Figures of the ablation: how its variants learn, and what they make of the same cases."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FlexEditError
from .ablation import AUTHORS, READINGS, TITLES, Log, read_logs
from .cases import Benchmark, Case
from .page import outlined
from .run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED = 10  # logged rows that a point of a curve is the mean of
OTHER_DATA = ("no-segmentation", "full-masks")
DPI = 110


def draw(logs: Path, out: Path) -> None:
    """``curves.png`` and, where the variants were run, ``cases.png`` beside their logs.

    out: the folder of `flexedit.training.ablation.Ablation`
    """
    curves(read_logs(logs), logs / "curves.png")
    if (out / "results").is_dir():
        same_cases(Benchmark(out / "cases" / "all"), out / "results", logs / "cases.png")


def curves(logs: Sequence[Log], path: Path) -> None:
    """The error of the predicted latent by step, the mean over a variant's seeds; and how far it is
    from FlexEdit's, for the variants that saw the same batches and noises.
    """
    page = blank(11, 4.2)
    errors, differences = page.subplots(1, 2)
    full: np.ndarray | None = None
    for number, name in enumerate((*AUTHORS, *READINGS[:-1])):  # generate is no training of its own
        same = [log.curve for log in logs if log.facts["variant"] == name]
        if not same:
            continue
        steps = [row["step"] for row in same[0]]
        error = np.mean([[row["diffusion"] for row in curve] for curve in same], axis=0)
        look = {"label": TITLES[name], "color": f"C{number}", "linewidth": 1.2}
        errors.plot(*smoothed(steps, error), **look)
        if name == "full":
            full = error
        elif full is not None and name not in OTHER_DATA and len(error) == len(full):
            differences.plot(*smoothed(steps, error - full), **look)
    errors.set(title="error of the predicted latent", xlabel="step")
    differences.set(title="the same, less FlexEdit's on the same batches", xlabel="step")
    differences.axhline(0, color="C0", linewidth=1.2)
    errors.legend(fontsize="x-small")
    for panel in (errors, differences):
        panel.grid(alpha=0.3)
    page.savefig(path, dpi=DPI)


def smoothed(steps: Sequence[float], values: np.ndarray) -> tuple[Sequence[float], np.ndarray]:
    """The means of SMOOTHED values in a row, each at the step of the last."""
    window = min(SMOOTHED, len(values))
    return steps[window - 1 :], np.convolve(values, np.full(window, 1 / window), "valid")


def same_cases(benchmark: Benchmark, results: Path, path: Path, seed: int = 0) -> None:
    """A row for the first case of each operation: scene, truth, then every variant's result."""
    runs = {
        TITLES[name]: Run(folder)
        for name in (*AUTHORS, *READINGS)
        if (folder := results / f"{name}-{seed}").is_dir()
    }
    titles, cases = ("scene", "truth", *runs), first_of_each(benchmark)
    page = blank(1.35 * len(titles), 1.6 * len(cases))
    grid = page.subplots(len(cases), len(titles), squeeze=False)
    for row, case in zip(grid, cases, strict=True):
        scene, mask = (benchmark.picture(case, name) for name in ("scene", "mask"))
        results_of_case = (run.picture(case.id) for run in runs.values())
        pictures = (outlined(scene, mask), benchmark.picture(case, "truth"), *results_of_case)
        for panel, picture in zip(row, pictures, strict=True):
            panel.axis("off")
            if picture is not None:
                panel.imshow(picture, interpolation="nearest")
        row[0].set_title(f"“{case.instruction}”", fontsize="xx-small", loc="left")
        if case.subject:
            inset = row[0].inset_axes((0.62, 0.0, 0.38, 0.38))
            inset.imshow(benchmark.picture(case, "subject"))
            inset.set(xticks=(), yticks=())
    for panel, title in zip(grid[-1], titles, strict=True):
        below = {"ha": "center", "va": "top", "transform": panel.transAxes}
        panel.text(0.5, -0.06, "\n".join(textwrap.wrap(title, 18)), fontsize="xx-small", **below)
    page.savefig(path, dpi=DPI)


def first_of_each(benchmark: Benchmark) -> list[Case]:
    found: dict[tuple[str, str], Case] = {}
    for case in benchmark.kept:
        found.setdefault((case.group, case.operation), case)
    return list(found.values())


def blank(width: float, height: float) -> Figure:
    """A figure in inches. FlexEditError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FlexEditError("Figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")
