"""The report: rows of metrics → ``report.json``, ``report.md`` and ``report.html``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import FlexEditError
from ..files import fingerprint, read_json
from .cases import FILES, FORMS, Benchmark
from .page import charts, gallery, rendered
from .run import Run
from .statistics import FEWEST
from .tables import (
    FORM_NAMES,
    METRICS,
    Cell,
    Column,
    Estimate,
    Facts,
    Measured,
    Table,
    TableRow,
    estimate,
    frame_of,
    select,
    tables,
)

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"
TITLE = "FSMI-Edit report"
ROLES = {  # of the systems that are there to compare with, by class
    "RoundTrip": "the ceiling: the scene through the VAE",
    "ReturnScene": "changes nothing",
    "Truth": "knows the answers",
}
PICTURES = 60  # cases shown with pictures, so that the page stays below about 10 MB


def report(
    benchmark: Benchmark,
    rows: list[dict[str, Any]],
    unavailable: dict[str, str],
    systems: list[dict[str, Any]],
    out: str | Path,
    runs: list[Run],
    judge_facts: dict[str, Any],
    *,
    pictures: int | None = PICTURES,
) -> None:
    """Writes ``report.json``, ``report.md`` and ``report.html`` into the folder ``out``.

    rows: one per system, case and form, see metrics.score · unavailable: why the metrics of
    "clip", "dino", "lpips" or "judge" have no values · systems: each run's ``system.json`` ·
    pictures: how many cases the page shows, None for all. Raises FlexEditError without any row.
    """
    if not rows:
        raise FlexEditError("There is nothing to report: no case has been run.")
    measured = Measured(frame_of(rows), unavailable)
    made = tables(measured)
    failed = failures(runs, rows)
    content = {
        "format": FORMAT,
        "flexedit": __version__,
        "benchmark": {"folder": benchmark.folder.resolve().name, **benchmark.meta},
        "cases": case_counts(benchmark),
        "systems": systems,
        "judge": judge_facts,
        "unavailable": unavailable,
        "failed": failed,
        "tables": {table.key: table_as_json(table) for table in made},
        "fingerprints": fingerprints(benchmark, rows),
        "rows": rows,
    }
    parts: list[Facts | Table] = [
        about_benchmark(benchmark),
        about_systems(systems, measured),
        about_missing(unavailable),
    ]
    for table in made:
        parts.append(table)
        if table.key == "success":
            parts.append(Facts("The judge", tuple(flattened(judge_facts))))
    parts.append(failed_table(failed))
    parts = [part for part in parts if (part.items if isinstance(part, Facts) else part.rows)]

    kinds = next((table for table in made if table.key == "kinds"), None)
    texts = {
        JSON: json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        MARKDOWN: as_markdown(TITLE, parts),
        HTML: rendered(
            "report.html",
            title=TITLE,
            parts=parts,
            charts=charts(kinds, measured) if kinds else [],
            gallery=gallery(benchmark, measured, runs, pictures),
        ),
    }
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def as_markdown(title: str, parts: Sequence[Facts | Table]) -> str:
    return rendered("report.md", title=title, parts=parts)


def failures(runs: Iterable[Run], rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    used = {(row["case"], row["form"]) for row in rows}
    return [
        {
            "system": run.system["name"],
            "case": result.case,
            "form": result.form,
            "task": result.task,
            "error": result.error,
        }
        for run in runs
        for result in run.results
        if result.status == "failed" and (result.case, result.form) in used
    ]


def case_counts(benchmark: Benchmark) -> dict[str, int]:
    kept = benchmark.kept
    return {
        "kept": len(kept),
        "single": sum(case.group == "single" for case in kept),
        "multi": sum(case.group == "multi" for case in kept),
        "rejected": len(benchmark.cases) - len(kept),
        "reviewed": sum(case.review != "open" for case in benchmark.cases),
    }


def fingerprints(benchmark: Benchmark, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """case id → 16 hex digits that change with all of the case but what a reviewer said of it"""
    used = {row["case"] for row in rows}
    prints = {}
    for case in benchmark.cases:
        if case.id in used:
            files = [benchmark.folder / name for part in FILES if (name := getattr(case, part))]
            words = json.dumps([case.group, case.instruction, case.label, case.caption])
            prints[case.id] = fingerprint(files, words)
    return prints


def table_as_json(table: Table) -> dict[str, Any]:
    rows = [
        {
            "section": row.section,
            "name": row.name,
            "reference": row.is_reference,
            "cells": {key: cell_as_json(cell) for key, cell in row.cells.items()},
        }
        for row in table.rows
    ]
    return {"title": table.title, "note": table.note, "rows": rows}


def cell_as_json(cell: Cell) -> Any:
    if not isinstance(cell, Estimate):
        return cell
    if not cell.count:
        return {"mean": cell.mean}
    return {"mean": cell.mean, "low": cell.low, "high": cell.high, "count": cell.count}


# What is said in words


def about_benchmark(benchmark: Benchmark) -> Facts:
    counts = case_counts(benchmark)
    cases = f"{counts['kept']} ({counts['single']} single-image, {counts['multi']} multi-image)"
    if counts["rejected"]:
        cases += f"; reviewers rejected {counts['rejected']} more"
    made = [  # of what was skipped, say, the number is enough
        f"{name.replace('_', ' ')} {len(value) if isinstance(value, (dict, list)) else value}"
        for name, value in benchmark.meta.items()
    ]
    reading = (
        "means, with 95 % bootstrap intervals over cases; of fewer than "
        f"{FEWEST} cases, without. A failed case has no picture metrics, "
        "and counts as 0 in success, IoU and labels."
    )
    return Facts(
        "",
        (
            ("Benchmark", "; ".join([benchmark.folder.resolve().name, *made])),
            ("Cases", cases),
            ("Measured by", f"FlexEdit {__version__}"),
            ("Numbers", reading),
        ),
    )


def about_systems(systems: Sequence[Mapping[str, Any]], measured: Measured) -> Facts:
    items = []
    for system in systems:
        facts = dict(flattened(system["settings"]))
        role = ROLES.get(facts.pop("kind", ""))
        words = [role] if role else []
        words += [f"{name} {value}" for name, value in facts.items() if value not in ("", "null")]
        if seconds := estimate(select(measured.rows, system=system["name"])["seconds"]):
            words.append(f"{seconds.mean:.3g} s per case")
        items.append((system["name"], "; ".join(words)))
    return Facts("Systems", tuple(items))


def about_missing(unavailable: Mapping[str, str]) -> Facts:
    items = []
    for part, reason in unavailable.items():
        names = [metric.title for metric in METRICS.values() if metric.needs == part]
        why = reason.removeprefix("unavailable, because ")
        items.append((", ".join(names) or part, f"unavailable, because {why}"))
    return Facts("Unavailable", tuple(items))


def failed_table(failed: Sequence[Mapping[str, str]]) -> Table:
    columns = tuple(Column(key, key) for key in ("case", "form", "task", "error"))
    rows = tuple(TableRow("", failure["system"], dict(failure)) for failure in failed)
    return Table("failed", "Failed cases", "", "system", columns, rows)


def flattened(facts: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """{"a": {"b_c": 1}} → ("a, b c", "1")"""
    for key, value in facts.items():
        name = f"{before}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{name}, ")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Two reports


def compare(report_a: str | Path, report_b: str | Path) -> str:
    """Markdown: B minus A for each metric, paired over the cases that both reports have.

    A report is its ``report.json`` or the folder of it. Systems are paired by name; two reports of
    one system each are compared whatever these are called; success is, if the same judge gave it.
    Raises FlexEditError if they share no system, or no case that is the same in both.
    """
    a, b = load(report_a), load(report_b)
    same = dict(a["fingerprints"].items() & b["fingerprints"].items())
    if not same:
        raise FlexEditError(
            "The two reports have no case in common: they were made on different benchmarks. "
            "Run both systems on the same one."
        )
    rows_a, rows_b = (
        frame_of(row for row in content["rows"] if row["case"] in same) for content in (a, b)
    )
    has_one_judge = a.get("judge") == b.get("judge")
    metrics = [key for key in METRICS if key != "success" or has_one_judge]
    lines = []
    for system_a, system_b in system_pairs(a, b):
        name = system_a if system_a == system_b else f"{system_a} (A) and {system_b} (B)"
        for form in FORMS:
            before = select(rows_a, system=system_a, form=form)
            after = select(rows_b, system=system_b, form=form)
            for key in metrics:
                if cells := compared(before, after, key):
                    section = f"{name}, {FORM_NAMES[form]}"
                    lines.append(TableRow(section, METRICS[key].title, cells))
    columns = tuple(Column(key, key) for key in ("A", "B", "B − A", "pairs", "verdict"))
    note = (
        "Means over the pairs, and the paired difference with its 95 % bootstrap interval. The "
        "verdict is “better” or “worse” where the interval leaves out 0; fewer than "
        f"{FEWEST} pairs have neither."
    )
    counts = [f"{len(same)} in both"] + [
        f"{others} only in {name}"
        for name, content in (("A", a), ("B", b))
        if (others := len(content["fingerprints"]) - len(same))
    ]
    facts = [("A", origin(a)), ("B", origin(b)), ("Cases", ", ".join(counts))]
    if not has_one_judge:
        facts.append(("Judge", "not the same in both, so success is left out"))
    table = Table("compare", "Differences", note, "metric", columns, tuple(lines))
    return as_markdown("B against A", [Facts("", tuple(facts)), table])


def load(path: str | Path) -> dict[str, Any]:
    file = Path(path) / JSON if Path(path).is_dir() else Path(path)
    try:
        content = read_json(file)
    except FlexEditError as error:
        raise FlexEditError(
            f"{file} cannot be read as a report ({error}). "
            "Make one with `python -m flexedit bench run`."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or "rows" not in content:
        raise FlexEditError(f"{file} is not a report of format {FORMAT}. Run the benchmark again.")
    return content


def systems_of(content: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["system"] for row in content["rows"]))


def origin(content: Mapping[str, Any]) -> str:
    systems = ", ".join(systems_of(content))
    return f"{systems}; benchmark {content['benchmark']['folder']}; FlexEdit {content['flexedit']}"


def system_pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str]]:
    names_a, names_b = systems_of(a), systems_of(b)
    if shared := [(name, name) for name in names_a if name in names_b]:
        return shared
    if len(names_a) == len(names_b) == 1:
        return [(names_a[0], names_b[0])]
    raise FlexEditError(
        f"The reports share no system: A has {', '.join(names_a)}, B has {', '.join(names_b)}. "
        "Give systems the same name, or compare reports of one system each."
    )


def compared(before: pd.DataFrame, after: pd.DataFrame, metric: str) -> dict[str, Cell] | None:
    """The cells of one metric; None where no case has a value in both."""
    a, b = (rows.set_index("case")[metric].dropna() for rows in (before, after))
    a, b = a[a.index.isin(b.index)], b[b.index.isin(a.index)]
    change = estimate(b - a, is_difference=True)
    if change is None:
        return None
    return {
        "A": estimate(a),
        "B": estimate(b),
        "B − A": change,
        "pairs": str(change.count),
        "verdict": verdict(change),
    }


def verdict(change: Estimate) -> str | None:
    """None without an interval."""
    if change.low is None or change.high is None:
        return None
    if change.low <= 0 <= change.high:
        return "no clear difference"
    return "better" if (change.mean > 0) == METRICS[change.metric].higher else "worse"
