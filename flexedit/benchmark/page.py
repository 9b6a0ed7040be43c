"""The report as one HTML page: facts, tables, bars by kind of mask, and pictures of cases.

The page is one file: pictures are in it as data URIs, and it asks for nothing from outside.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from .cases import Benchmark, Case
from .run import Run
from .tables import (
    FORM_NAMES,
    METRICS,
    Cell,
    Column,
    Estimate,
    Facts,
    Measured,
    Row,
    Table,
    distinct,
    select,
)

PAGES = Path(__file__).parent / "pages"
SHARP = 128  # pixels: up to this side a picture is kept losslessly
LARGEST = 192  # pixels a side: larger pictures are scaled down for the page
CHARTS = ("success", "label_right", "iou", "fg_psnr")
NUM_COLORS = 7  # that report.css has for systems; one more is for what is given
OUTLINE = (255, 40, 120)


def render(
    title: str,
    parts: Sequence[Facts | Table],
    measured: Measured,
    benchmark: Benchmark,
    runs: Sequence[Run],
    pictures: int | None,
) -> str:
    """The page; ``pictures``: how many cases are shown with theirs, None for all."""
    body = [f"<h1>{escape(title)}</h1>"]
    for part in parts:
        body.append(facts_html(part) if isinstance(part, Facts) else table_html(part))
        if isinstance(part, Table) and part.key == "kinds":
            body.append(f'<div class="charts">{charts(part, measured)}</div>')
    if shown := chosen_cases(benchmark, measured, pictures):
        body.append(gallery(benchmark, measured, runs, shown))
    return Template(page_file("report.html")).substitute(
        title=escape(title),
        style=page_file("style.css") + page_file("report.css"),
        script=page_file("report.js"),
        body="\n".join(body),
    )


def page_file(name: str) -> str:
    return (PAGES / name).read_text(encoding="utf-8")


# Facts and tables


def facts_html(facts: Facts) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items
    )  # fmt: skip
    heading = f"<h2>{escape(facts.title)}</h2>" if facts.title else ""
    return f"{heading}<dl>{items}</dl>"


def table_html(table: Table) -> str:
    body = []
    for section, rows in table.sections.items():
        lines = [row_html(table, row) for row in rows]
        if section:
            span = f'colspan="{len(table.columns) + 1}" scope="rowgroup"'
            lines.insert(0, f'<tr class="section"><th {span}>{escape(section)}</th></tr>')
        body.append(f"<tbody>{''.join(lines)}</tbody>")
    return (
        f'<section id="{escape(table.key)}"><h2>{escape(table.title)}</h2>'
        f"<p>{escape(table.note)}</p>"
        f'<div class="wide"><table>{head_html(table)}{"".join(body)}</table></div></section>'
    )


def head_html(table: Table) -> str:
    names = "".join(f'<th scope="col">{escape(column.name)}</th>' for column in table.columns)
    head = f'<tr><th scope="col">{escape(table.corner)}</th>{names}</tr>'
    if any(column.group for column in table.columns):
        groups = "".join(
            f'<th colspan="{len(list(columns))}">{escape(group)}</th>'
            for group, columns in groupby(table.columns, key=group_of)
        )
        head = f'<tr class="groups"><td></td>{groups}</tr>{head}'
    return f"<thead>{head}</thead>"


def group_of(column: Column) -> str:
    return column.group


def row_html(table: Table, row: Row) -> str:
    cells = "".join(cell_html(row.cells.get(column.key)) for column in table.columns)
    kind = ' class="reference"' if row.is_reference else ""
    return f'<tr{kind}><th scope="row">{escape(row.name)}</th>{cells}</tr>'


def cell_html(cell: Cell) -> str:
    if not isinstance(cell, Estimate):
        return f'<td class="words">{escape(cell or "–")}</td>'
    interval = f"<small>{escape(cell.interval)}</small>" if cell.interval else ""
    title = f' title="{cell.count} cases"' if cell.count else ""
    return f"<td{title}>{escape(cell.text)}{interval}</td>"


# Bars


@dataclass(frozen=True)
class Series:
    """The bars of one colour, by the name of their row; ``color`` as in report.css."""

    name: str
    color: int
    cells: Mapping[str, Estimate]


def charts(table: Table, measured: Measured) -> str:
    """One chart for each of CHARTS that the table of mask kinds has values for."""
    found = []
    for metric in measured.available(CHARTS):
        series = [
            Series(name, index % NUM_COLORS, column_of(rows, metric))
            for index, (name, rows) in enumerate(table.sections.items())
        ]
        if metric == "iou":  # the same for all systems
            given = (column_of(rows, "scribble_iou") for rows in table.sections.values())
            cells = next((cells for cells in given if cells), {})
            series.append(Series("the given mask itself", NUM_COLORS, cells))
        found.append(chart(METRICS[metric].title, [one for one in series if one.cells]))
    return "".join(found)


def column_of(rows: Iterable[Row], metric: str) -> dict[str, Estimate]:
    cells = ((row.name, row.cells[metric]) for row in rows)
    return {name: cell for name, cell in cells if isinstance(cell, Estimate)}


def chart(title: str, series: Sequence[Series]) -> str:
    """Horizontal bars from 0, with what intervals there are: a group per row of the table."""
    left, width, thick = 128, 222, 12  # in a drawing that is 400 wide
    highest = max(cell.high or cell.mean for one in series for cell in one.cells.values())
    scale = width / max(highest, 1e-9)
    drawn, y = [], 0
    for name in dict.fromkeys(name for one in series for name in one.cells):
        center = y + len(series) * thick / 2
        drawn.append(f'<text x="{left - 6}" y="{center}" class="name">{escape(name)}</text>')
        for one in series:
            if name in one.cells:
                drawn.append(bar(one.cells[name], one.color, left, y, scale, thick))
            y += thick
        y += 8
    legend = "".join(
        f'<span class="color-{one.color}">{escape(one.name)}</span>' for one in series
    )  # fmt: skip
    return (
        f'<figure class="chart"><h3>{escape(title)}</h3><p class="legend">{legend}</p>'
        f'<svg viewBox="0 0 400 {y}" role="img" aria-label="{escape(title)} by kind of mask">'
        f"{''.join(drawn)}</svg></figure>"
    )


def bar(cell: Estimate, color: int, left: int, y: int, scale: float, thick: int) -> str:
    low, high = (cell.mean if one is None else one for one in (cell.low, cell.high))
    end, low, high = (left + scale * max(0.0, one) for one in (cell.mean, low, high))
    center = y + thick / 2
    return (
        f'<rect x="{left}" y="{y + 1}" width="{end - left:.1f}" height="{thick - 2}" '
        f'class="color-{color}"/><path d="M{low:.1f} {center}H{high:.1f}"/>'
        f'<text x="{high + 4:.1f}" y="{center}" class="value">{escape(cell.text)}</text>'
    )


# Pictures


def chosen_cases(benchmark: Benchmark, measured: Measured, limit: int | None) -> list[Case]:
    """At most ``limit`` of the cases that were run, in their order.

    Half are spread evenly; half are those on which the first system is worst, by the whole
    picture's PSNR, so that “worst first” has the worst ones to show.
    """
    used = set(distinct(measured.rows, "case"))
    cases = [case for case in benchmark.cases if case.id in used]
    if limit is None or len(cases) <= limit:
        return cases
    spread = np.linspace(0, len(cases) - 1, limit - limit // 2).astype(int)
    shown = {cases[index].id for index in spread}
    first = select(measured.rows, system=measured.systems[0], form=measured.forms[0])
    for row in sorted(first, key=lambda row: -1.0 if row["psnr"] is None else row["psnr"]):
        if len(shown) < limit:
            shown.add(row["case"])
    return [case for case in cases if case.id in shown]


def gallery(
    benchmark: Benchmark, measured: Measured, runs: Sequence[Run], cases: Sequence[Case]
) -> str:
    """The cases with their pictures, and controls that sort them."""
    total = len(distinct(measured.rows, "case"))
    note = f"All {total} cases."
    if len(cases) < total:
        note = (
            f"{len(cases)} of {total} cases: half of them spread evenly, half the worst of "
            f"{measured.systems[0]} by the whole picture's PSNR. “--pictures all” shows all."
        )
    metrics = {key: METRICS[key] for key in measured.available(METRICS)}
    orders = {"": "by case", **{key: f"worst {metric.title}" for key, metric in metrics.items()}}
    controls = (
        choice("order", "Sorted", orders)
        + choice("system", "of", {system: system for system in measured.systems})
        + choice("form", "with", {form: FORM_NAMES[form] for form in measured.forms})
    )
    shown = {case.id for case in cases}
    data = {
        "metrics": {
            key: {"title": metric.title, "higher": metric.higher, "percent": metric.percent}
            for key, metric in metrics.items()
        },
        "rows": [
            {key: row[key] for key in ("case", "form", "system", *metrics)}
            for row in measured.rows
            if row["case"] in shown
        ],
    }
    cards = "".join(card(benchmark, case, runs, measured.forms) for case in cases)
    return (
        f'<section id="pictures"><h2>Pictures</h2><p>{escape(note)}</p>'
        f'<form class="controls">{controls}</form><div id="cards">{cards}</div></section>'
        f'<script type="application/json" id="data">{script_json(data)}</script>'
    )


def choice(name: str, label: str, options: Mapping[str, str]) -> str:
    inner = "".join(
        f'<option value="{escape(value)}">{escape(text)}</option>'
        for value, text in options.items()
    )  # fmt: skip
    return f'<label>{escape(label)} <select name="{name}">{inner}</select></label>'


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def card(benchmark: Benchmark, case: Case, runs: Sequence[Run], forms: Sequence[str]) -> str:
    """What was asked; then for each form: the marked scene, subject, every result, truth."""
    scene = benchmark.picture(case, "scene")
    subject = figure("subject", benchmark.picture(case, "subject")) if case.subject else ""
    truth = figure("truth", benchmark.picture(case, "truth"))
    strips = []
    for form in forms:
        mask = benchmark.picture(case, "mask" if form == "free" else "full_mask")
        marked = figure(FORM_NAMES[form], outlined(scene, mask))
        results = "".join(result(run, case, form) for run in runs)
        strips.append(f'<div class="strip">{marked}{subject}{results}{truth}</div>')
    place = "" if case.setting == "none" else f", {case.setting}"
    labels = " → ".join(label or "unknown" for label in (case.label, case.result_label))
    facts = f"{case.operation}, {case.kind}{place}, {labels}"
    return (
        f'<article data-case="{escape(case.id)}"><h3>{escape(case.id)}: '
        f"“{escape(case.instruction)}”</h3><p>{escape(facts)} <output></output></p>"
        f"{''.join(strips)}</article>"
    )


def outlined(scene: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The scene (H, W, 3) marked as a system sees it, and a line around it for human eyes."""
    marked = np.where(mask[:, :, None], scene // 2 + 128, scene)
    marked[ndimage.binary_dilation(mask) & ~mask] = OUTLINE
    return marked


def result(run: Run, case: Case, form: str) -> str:
    """The output with what the system said; a frame in its place if it failed."""
    name = run.system["name"]
    done = run.result(case.id, form)
    if done is None:
        return ""
    picture = run.picture(done)
    if picture is None:
        return (
            f'<figure class="failed"><p>failed</p><figcaption>{escape(name)}</figcaption></figure>'
        )
    return figure(f"{name}: “{done.reply}”" if done.reply else name, picture)


def figure(caption: str, picture: np.ndarray) -> str:
    sharp = ' class="pixelated"' if max(picture.shape[:2]) <= SHARP else ""
    image = f'<img src="{data_uri(picture)}" alt="{escape(caption)}"{sharp}>'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def data_uri(picture: np.ndarray) -> str:
    """picture (H, W, 3) uint8, small ones as they are, larger ones as smaller JPEG"""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    if max(image.size) <= SHARP:
        image.save(buffer, kind := "png")
    else:
        image.thumbnail((LARGEST, LARGEST))
        image.save(buffer, kind := "jpeg", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
