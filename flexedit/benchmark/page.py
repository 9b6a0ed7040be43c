"""The report as one HTML page: facts, tables, bars by kind of mask, and pictures of cases.

The page is one file: pictures are in it as data URIs, and it asks for nothing from outside.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from .cases import Benchmark, Case
from .run import Run
from .tables import FORM_NAMES, METRICS, Estimate, Measured, Table, select

PAGES = Path(__file__).parent / "pages"
SHARP = 128  # pixels: up to this side a picture is kept losslessly
LARGEST = 192  # pixels a side: larger pictures are scaled down for the page
CHARTS = ("success", "label_right", "iou", "fg_psnr")
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900")
GREY = "#8c8c8c"  # for what is given
INTERVAL = "#808080"  # report.css gives it the colour of letters
OUTLINE = (255, 40, 120)


def rendered(template: str, **values: Any) -> str:
    """A file of ``pages/`` filled in; what goes into HTML is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    return environment.get_template(template).render(values)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\|*_`[]" else letter for letter in text)


# Bars

Bars = dict[str, Estimate]  # by the name of their row


def charts(table: Table, measured: Measured) -> list[dict[str, str]]:
    """Title and SVG of a chart for each of CHARTS that the table of mask kinds has values for."""
    drawn = []
    for metric in measured.available(CHARTS):
        series = {system: column_of(table, system, metric) for system in table.sections}
        colors = dict(zip(series, COLORS * len(series), strict=False))
        if metric == "iou":  # the same for all systems
            given = [column_of(table, system, "scribble_iou") for system in table.sections]
            series["the given mask itself"] = next(filter(None, given), {})
            colors["the given mask itself"] = GREY
        series = {name: bars for name, bars in series.items() if bars}
        title = METRICS[metric].title
        drawn.append({"title": title, "svg": chart(title, series, colors)})
    return drawn


def column_of(table: Table, section: str, metric: str) -> Bars:
    cells = {row.name: row.cells[metric] for row in table.sections[section]}
    return {name: cell for name, cell in cells.items() if isinstance(cell, Estimate)}


def chart(title: str, series: Mapping[str, Bars], colors: Mapping[str, str]) -> str:
    """Horizontal bars from 0 as SVG, with what intervals there are: a group per row of the table.

    Its letters are text, whose font and colour are the page's.
    """
    import matplotlib
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for bars in series.values() for name in bars))
    thick, group = 0.18, 0.18 * len(series) + 0.1  # inches
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 10}):
        figure = Figure(figsize=(5, group * len(names) + 0.3), layout="constrained")
        axes = figure.subplots()
        for index, (system, bars) in enumerate(series.items()):
            means = np.array([cell.mean for cell in bars.values()])
            lows = [cell.mean if cell.low is None else cell.low for cell in bars.values()]
            highs = [cell.mean if cell.high is None else cell.high for cell in bars.values()]
            drawn = axes.barh(
                [names.index(name) * group + index * thick for name in bars],
                means,
                thick * 0.85,
                xerr=[means - lows, highs - means],
                color=colors[system],
                ecolor=INTERVAL,
                error_kw={"clip_on": False, "elinewidth": 0.8},
                label=system,
                clip_on=False,
            )
            texts = [cell.text for cell in bars.values()]
            axes.bar_label(drawn, texts, padding=3, fontsize=8)
        middle = (len(series) - 1) / 2 * thick
        axes.set_yticks([row * group + middle for row in range(len(names))], names)
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.xaxis.set_visible(False)
        axes.yaxis.set_tick_params(left=False)
        axes.spines[:].set_visible(False)
        figure.legend(
            loc="outside upper left", ncols=3, frameon=False, handlelength=0.8, columnspacing=1
        )
        file = io.StringIO()
        facts = {"Date": None, "Creator": None}  # the same bytes from the same numbers
        figure.savefig(file, format="svg", transparent=True, metadata=facts)
    svg = file.getvalue()
    return re.sub(r'\s+id="[^"]*"', "", svg[svg.index("<svg") :])  # one page has several charts


# Pictures


def chosen_cases(benchmark: Benchmark, measured: Measured, limit: int | None) -> list[Case]:
    """At most ``limit`` of the cases that were run, in their order.

    Half are spread evenly; half are those on which the first system is worst, by the whole
    picture's PSNR, so that “worst first” has the worst ones to show.
    """
    used = set(measured.rows["case"])
    cases = [case for case in benchmark.cases if case.id in used]
    if limit is None or len(cases) <= limit:
        return cases
    spread = np.linspace(0, len(cases) - 1, limit - limit // 2).astype(int)
    shown = {cases[index].id for index in spread}
    first = select(measured.rows, system=measured.systems[0], form=measured.forms[0])
    for case_id in first.sort_values("psnr", na_position="first", kind="stable")["case"]:
        if len(shown) < limit:
            shown.add(case_id)
    return [case for case in cases if case.id in shown]


def gallery(
    benchmark: Benchmark, measured: Measured, runs: Sequence[Run], limit: int | None
) -> dict[str, Any]:
    """The cases with their pictures, and what sorts them; {} if none are shown."""
    cases = chosen_cases(benchmark, measured, limit)
    if not cases:
        return {}
    total = measured.rows["case"].nunique()
    note = f"All {total} cases."
    if len(cases) < total:
        note = (
            f"{len(cases)} of {total} cases: half of them spread evenly, half the worst of "
            f"{measured.systems[0]} by the whole picture's PSNR. “--pictures all” shows all."
        )
    metrics = {key: METRICS[key] for key in measured.available(METRICS)}
    shown = measured.rows[measured.rows["case"].isin([case.id for case in cases])]
    rows = shown[["case", "form", "system", *metrics]].astype(object)
    return {
        "note": note,
        "choices": {
            "order": {key: f"worst {metric.title}" for key, metric in metrics.items()},
            "system": {system: system for system in measured.systems},
            "form": {form: FORM_NAMES[form] for form in measured.forms},
        },
        "metrics": {
            key: {"title": metric.title, "higher": metric.higher, "percent": metric.percent}
            for key, metric in metrics.items()
        },
        "rows": rows.where(rows.notna(), None).to_dict("records"),
        "cards": [card(benchmark, case, runs, measured.forms) for case in cases],
    }


def card(
    benchmark: Benchmark, case: Case, runs: Sequence[Run], forms: Sequence[str]
) -> dict[str, Any]:
    """What was asked; then for each form: the marked scene, subject, every result, truth."""
    scene = benchmark.picture(case, "scene")
    strips = []
    for form in forms:
        mask = benchmark.picture(case, "mask" if form == "free" else "full_mask")
        figures = [figure(FORM_NAMES[form], outlined(scene, mask))]
        if case.subject:
            figures.append(figure("subject", benchmark.picture(case, "subject")))
        figures += [result(run, case, form) for run in runs if run.result(case.id, form)]
        figures.append(figure("truth", benchmark.picture(case, "truth")))
        strips.append(figures)
    return {"case": case, "strips": strips}


def outlined(scene: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The scene (H, W, 3) marked as a system sees it, and a line around it for human eyes."""
    marked = np.where(mask[:, :, None], scene // 2 + 128, scene)
    marked[ndimage.binary_dilation(mask) & ~mask] = OUTLINE
    return marked


def result(run: Run, case: Case, form: str) -> dict[str, Any]:
    """The output with what the system said; no picture if it failed."""
    name, done = run.system["name"], run.result(case.id, form)
    assert done is not None
    caption = f"{name}: “{done.reply}”" if done.reply else name
    return figure(caption, run.picture(done))


def figure(caption: str, picture: np.ndarray | None) -> dict[str, Any]:
    if picture is None:
        return {"caption": caption, "source": None}
    is_sharp = max(picture.shape[:2]) <= SHARP
    return {"caption": caption, "source": data_uri(picture), "is_sharp": is_sharp}


def data_uri(picture: np.ndarray) -> str:
    """picture (H, W, 3) uint8, small ones as they are, larger ones as smaller JPEG"""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    kind = "png" if max(image.size) <= SHARP else "jpeg"
    image.thumbnail((LARGEST, LARGEST))
    image.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
