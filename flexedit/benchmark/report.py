"""The report: rows of metrics → ``report.json``, ``report.md`` and ``report.html``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import FlexEditError
from ..files import fingerprint
from . import page
from .cases import FILES, FORMS, Benchmark
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
    Row,
    Rows,
    Table,
    difference,
    distinct,
    estimate,
    select,
    tables,
)

FORMAT = 1
JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"
ROLES = {  # of the classes of system that are there to compare with
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
    measured = Measured(rows, unavailable)
    found = tables(measured)
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
        "tables": {table.key: table_as_json(table) for table in found},
        "fingerprints": fingerprints(benchmark, rows),
        "rows": rows,
    }
    parts: list[Facts | Table] = [
        about_benchmark(benchmark),
        about_systems(systems, rows),
        about_missing(unavailable),
    ]
    for table in found:
        parts.append(table)
        if table.key == "success":
            parts.append(Facts("The judge", tuple(flattened(judge_facts))))
    parts.append(failed_table(failed))
    parts = [part for part in parts if (part.items if isinstance(part, Facts) else part.rows)]

    texts = {
        JSON: json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        MARKDOWN: as_markdown("FSMI-Edit report", parts),
        HTML: page.render("FSMI-Edit report", parts, measured, benchmark, runs, pictures),
    }
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def failures(runs: Iterable[Run], rows: Rows) -> list[dict[str, str]]:
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


def fingerprints(benchmark: Benchmark, rows: Rows) -> dict[str, str]:
    """case id → 16 hex digits that change with all of the case but what a reviewer said of it"""
    used = set(distinct(rows, "case"))
    found = {}
    for case in benchmark.cases:
        if case.id in used:
            files = [benchmark.folder / name for part in FILES if (name := getattr(case, part))]
            words = json.dumps([case.group, case.instruction, case.label, case.caption])
            found[case.id] = fingerprint(files, words)
    return found


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


def about_systems(systems: Sequence[Mapping[str, Any]], rows: Rows) -> Facts:
    found = []
    for system in systems:
        facts = dict(flattened(system["settings"]))
        role = ROLES.get(facts.pop("kind", ""))
        told = [role] if role else []
        told += [f"{name} {value}" for name, value in facts.items() if value not in ("", "null")]
        if seconds := estimate(select(rows, system=system["name"]), "seconds"):
            told.append(f"{seconds.mean:.3g} s per case")
        found.append((system["name"], "; ".join(told)))
    return Facts("Systems", tuple(found))


def about_missing(unavailable: Mapping[str, str]) -> Facts:
    found = []
    for part, reason in unavailable.items():
        names = [metric.title for metric in METRICS.values() if metric.needs == part]
        why = reason.removeprefix("unavailable, because ")
        found.append((", ".join(names) or part, f"unavailable, because {why}"))
    return Facts("Unavailable", tuple(found))


def failed_table(failed: Sequence[Mapping[str, str]]) -> Table:
    columns = tuple(Column(key, key) for key in ("case", "form", "task", "error"))
    rows = tuple(
        Row("", one["system"], {column.key: one[column.key] for column in columns})
        for one in failed
    )  # fmt: skip
    return Table("failed", "Failed cases", "", "system", columns, rows)


def flattened(facts: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """{"a": {"b_c": 1}} → ("a, b c", "1")"""
    for key, value in facts.items():
        name = f"{before}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{name}, ")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Markdown


def as_markdown(title: str, parts: Sequence[Facts | Table]) -> str:
    found = [f"# {title}"]
    for part in parts:
        if part.title:
            found.append(f"## {part.title}")
        if isinstance(part, Facts):
            found.append(
                "\n".join(f"- **{plain(name)}**: {plain(text)}" for name, text in part.items)
            )
        else:
            found += [part.note] if part.note else []
            found.append(table_as_markdown(part))
    return "\n\n".join(found) + "\n"


def table_as_markdown(table: Table) -> str:
    heads = [f"{column.group} {column.name}".strip() for column in table.columns]
    lines = [[table.corner, *map(plain, heads)], ["---", *("--:" for _ in heads)]]
    for section, rows in table.sections.items():
        if section:
            lines.append([f"**{plain(section)}**", *("" for _ in heads)])
        for row in rows:
            cells = (cell_as_markdown(row.cells.get(column.key)) for column in table.columns)
            name = f"*{plain(row.name)}*" if row.is_reference else plain(row.name)
            lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell_as_markdown(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        return f"{cell.text} [{cell.interval}]" if cell.interval else cell.text
    return plain(cell) if cell else "–"


def plain(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\|*_`[]" else letter for letter in text)


# Two reports


def compare(report_a: str | Path, report_b: str | Path) -> str:
    """Markdown: B minus A for each metric, paired over the cases that both reports have.

    A report is its ``report.json`` or the folder of it. Systems are paired by name; two reports of
    one system each are compared whatever these are called; success is, if the same judge gave it.
    Raises FlexEditError if they share no
    system, or no case that is the same in both.
    """
    a, b = load(report_a), load(report_b)
    same = dict(a["fingerprints"].items() & b["fingerprints"].items())
    if not same:
        raise FlexEditError(
            "The two reports have no case in common: they were made on different benchmarks. "
            "Run both systems on the same one."
        )
    rows_a, rows_b = ([row for row in one["rows"] if row["case"] in same] for one in (a, b))
    metrics = dict(METRICS)
    if a.get("judge") != b.get("judge"):
        del metrics["success"]
    found = []
    for system_a, system_b in system_pairs(rows_a, rows_b):
        name = system_a if system_a == system_b else f"{system_a} (A) and {system_b} (B)"
        for form in FORMS:
            before = select(rows_a, system=system_a, form=form)
            after = select(rows_b, system=system_b, form=form)
            for key, metric in metrics.items():
                if cells := compared(before, after, key):
                    found.append(Row(f"{name}, {FORM_NAMES[form]}", metric.title, cells))
    columns = tuple(Column(key, key) for key in ("A", "B", "B − A", "pairs", "verdict"))
    note = (
        "Means over the pairs, and the paired difference with its 95 % bootstrap interval. The "
        "verdict is “better” or “worse” where the interval leaves out 0; fewer than "
        f"{FEWEST} pairs have neither."
    )
    counts = [f"{len(same)} in both"] + [
        f"{others} only in {name}"
        for name, one in (("A", a), ("B", b))
        if (others := len(one["fingerprints"]) - len(same))
    ]
    facts = [("A", origin(a)), ("B", origin(b)), ("Cases", ", ".join(counts))]
    if "success" not in metrics:
        facts.append(("Judge", "not the same in both, so success is left out"))
    table = Table("compare", "Differences", note, "metric", columns, tuple(found))
    return as_markdown("B against A", [Facts("", tuple(facts)), table])


def load(path: str | Path) -> dict[str, Any]:
    file = Path(path) / JSON if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlexEditError(
            f"{file} cannot be read as a report ({error}). "
            "Make one with `python -m flexedit bench run`."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or "rows" not in content:
        raise FlexEditError(f"{file} is not a report of format {FORMAT}. Run the benchmark again.")
    return content


def origin(content: Mapping[str, Any]) -> str:
    systems = ", ".join(distinct(content["rows"], "system"))
    return f"{systems}; benchmark {content['benchmark']['folder']}; FlexEdit {content['flexedit']}"


def system_pairs(rows_a: Rows, rows_b: Rows) -> list[tuple[str, str]]:
    names_a, names_b = distinct(rows_a, "system"), distinct(rows_b, "system")
    if shared := [(name, name) for name in names_a if name in names_b]:
        return shared
    if len(names_a) == len(names_b) == 1:
        return [(names_a[0], names_b[0])]
    raise FlexEditError(
        f"The reports share no system: A has {', '.join(names_a)}, B has {', '.join(names_b)}. "
        "Give systems the same name, or compare reports of one system each."
    )


def compared(before: Rows, after: Rows, metric: str) -> dict[str, Cell] | None:
    """The cells of one metric; None where no case has a value in both."""
    change = difference(after, before, metric, "case")
    if change is None:
        return None
    known = [{row["case"] for row in rows if row[metric] is not None} for rows in (before, after)]
    means = [
        estimate([row for row in rows if row["case"] in known[0] & known[1]], metric)
        for rows in (before, after)
    ]
    return {
        "A": means[0],
        "B": means[1],
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
