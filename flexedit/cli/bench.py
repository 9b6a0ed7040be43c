"""``bench``: build the benchmark, review, run, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import FlexEditError
from .arguments import PATH, Report, framing_option

SYSTEMS = ("flexedit", "round-trip", "scene")


@click.group(no_args_is_help=False)
def bench() -> None:
    """FSMI-Edit: build the benchmark, run and compare."""


@bench.command()
@click.option("--out", type=PATH, required=True)
@click.option("--seed", default=0)
@click.option("--single", "num_single", default=80, help="cases without a subject picture")
@click.option("--multi", "num_multi", default=125, help="cases with a subject picture")
@click.option("--size", default=64, help="pixels a side of the world's scenes")
@framing_option
@click.option(
    "--source",
    default="world",
    help="world, world:STYLE, coco:ANNOTATIONS.json,PICTURES,EDITS.jsonl or magicbrush:FOLDER",
)
def build(out: Path, **settings: Any) -> Report:
    """Write a benchmark."""
    from ..benchmark.build import build

    return {"out": str(out), "cases": len(build(out, **settings).cases)}


@bench.command()
@click.argument("benchmark", type=PATH)
@click.option("--port", default=0, help="default: any free one")
@click.option("--no-browser", is_flag=True, help="print the address only")
def review(benchmark: Path, port: int, no_browser: bool) -> Report:
    """Accept, redraw or reject cases in the browser."""
    from ..benchmark.review import review

    return review(benchmark, port, not no_browser)


def number_of_pictures(text: str) -> int | None:
    """None for all"""
    if text == "all":
        return None
    if not text.isdecimal():
        raise FlexEditError(f"--pictures is {text!r}; give a number or all.")
    return int(text)


@bench.command()
@click.argument("benchmark", type=PATH)
@click.option("--out", type=PATH, required=True, help="folder of results and reports")
@click.option(
    "--system",
    "names",
    multiple=True,
    default=SYSTEMS,
    help="see docs/benchmark.md",
)
@click.option("--form", "forms", multiple=True, help="masks: free or full; default: both")
@click.option("--seed", default=0)
@click.option("--batch-size", default=16)
@click.option("--device", help="cpu, cuda, …; default: the GPU if there is one")
@click.option("--clip", help="a folder or owner/name@REVISION")
@click.option("--dino", help="a folder or owner/name@REVISION")
@click.option("--lpips", help="AlexNet weights; default: those in torch's hub folder")
@click.option("--pictures", default="60", help="cases with pictures in report.html, or all")
def run(
    benchmark: Path, out: Path, names: tuple[str, ...], forms: tuple[str, ...], **options: Any
) -> Report:
    """Run systems on a benchmark, measure and report."""
    shown = number_of_pictures(options["pictures"])
    from ..benchmark.cases import FORMS, Benchmark
    from ..benchmark.encoders import Encoders
    from ..benchmark.judge import Judge
    from ..benchmark.metrics import require_packages, score
    from ..benchmark.naming import editors_from
    from ..benchmark.report import HTML, MARKDOWN, report
    from ..benchmark.run import run

    require_packages()
    cases = Benchmark(benchmark)
    encoders = Encoders.load(*map(options.get, ("clip", "dino", "lpips", "device")))
    judge = Judge.load()
    editors = editors_from(names, options["device"])
    forms = forms or FORMS
    settings = {"forms": forms, "seed": options["seed"], "batch_size": options["batch_size"]}
    runs = [run(cases, editor, out, **settings) for editor in editors]
    report(
        cases,
        [row for done in runs for row in score(cases, done, encoders, judge, forms)],
        encoders.unavailable,
        [done.system for done in runs],
        out,
        runs,
        judge.facts,
        pictures=shown,
    )
    print((out / MARKDOWN).read_text(encoding="utf-8"))
    return {"report": str(out / HTML)}


@bench.command()
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
def compare(a: Path, b: Path) -> Report:
    """Two reports, paired by case, as Markdown."""
    from ..benchmark.report import compare

    print(compare(a, b))
    return {}
