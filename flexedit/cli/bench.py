"""``bench``: build the benchmark, review, run, compare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import FlexEditError

SYSTEMS = ("flexedit", "round-trip", "scene")


def add_commands(root: Any) -> None:
    """``root``: what ``add_subparsers`` of the root parser gave."""
    bench = root.add_parser("bench", help="FSMI-Edit: build the benchmark, run and compare")
    commands = bench.add_subparsers(required=True, metavar="command")
    build = commands.add_parser("build", help="write a benchmark")
    build.add_argument("--out", type=Path, required=True)
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--single", type=int, default=80, help="cases without a subject picture")
    build.add_argument("--multi", type=int, default=125, help="cases with a subject picture")
    build.add_argument("--size", type=int, default=64, help="pixels a side of the world's scenes")
    build.add_argument(
        "--source",
        default="world",
        help="world, world:STYLE, coco:ANNOTATIONS.json,PICTURES,EDITS.jsonl or magicbrush:FOLDER",
    )
    build.set_defaults(run=run_build)

    review = commands.add_parser("review", help="accept, redraw or reject cases in the browser")
    review.add_argument("benchmark", type=Path)
    review.add_argument("--port", type=int, default=0, help="default: any free one")
    review.add_argument("--no-browser", action="store_true", help="print the address only")
    review.set_defaults(run=run_review)

    run = commands.add_parser("run", help="run systems on a benchmark, measure and report")
    run.add_argument("benchmark", type=Path)
    run.add_argument("--out", type=Path, required=True, help="folder of results and reports")
    run.add_argument(
        "--system", action="append", help=f"see docs/benchmark.md; default: {', '.join(SYSTEMS)}"
    )
    run.add_argument("--form", action="append", help="masks: free or full; default: both")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--batch-size", type=int, default=16)
    run.add_argument("--device", help="cpu, cuda, …; default: the GPU if there is one")
    run.add_argument("--clip", help="a folder or owner/name@REVISION")
    run.add_argument("--dino", help="a folder or owner/name@REVISION")
    run.add_argument("--lpips", help="AlexNet weights; default: those in torch's hub folder")
    run.add_argument("--pictures", default="60", help="cases with pictures in report.html, or all")
    run.set_defaults(run=run_run)

    compare = commands.add_parser("compare", help="two reports, paired by case, as Markdown")
    compare.add_argument("a", type=Path)
    compare.add_argument("b", type=Path)
    compare.set_defaults(run=run_compare)


def run_build(options: argparse.Namespace) -> dict[str, Any]:
    from ..benchmark.build import build

    benchmark = build(
        options.out,
        seed=options.seed,
        num_single=options.single,
        num_multi=options.multi,
        source=options.source,
        size=options.size,
    )
    return {"out": str(options.out), "cases": len(benchmark.cases)}


def run_review(options: argparse.Namespace) -> dict[str, Any]:
    from ..benchmark.review import review

    return review(options.benchmark, options.port, not options.no_browser)


def run_run(options: argparse.Namespace) -> dict[str, Any]:
    from ..benchmark.cases import FORMS, Benchmark
    from ..benchmark.editors import editors_from
    from ..benchmark.encoders import Encoders
    from ..benchmark.judge import Judge
    from ..benchmark.metrics import require_packages, score
    from ..benchmark.report import HTML, MARKDOWN, report
    from ..benchmark.run import run

    require_packages()
    pictures = number_of_pictures(options.pictures)
    benchmark = Benchmark(options.benchmark)
    encoders = Encoders.load(options.clip, options.dino, options.lpips, options.device)
    judge = Judge.load()
    systems = editors_from(options.system or SYSTEMS, options.device)
    forms = options.form or FORMS
    runs = [
        run(
            benchmark,
            system,
            options.out,
            forms=forms,
            seed=options.seed,
            batch_size=options.batch_size,
        )
        for system in systems
    ]
    report(
        benchmark,
        [row for one in runs for row in score(benchmark, one, encoders, judge, forms)],
        encoders.unavailable,
        [one.system for one in runs],
        options.out,
        runs,
        judge.facts,
        pictures=pictures,
    )
    print((options.out / MARKDOWN).read_text(encoding="utf-8"))
    return {"report": str(options.out / HTML)}


def run_compare(options: argparse.Namespace) -> dict[str, Any]:
    from ..benchmark.report import compare

    print(compare(options.a, options.b))
    return {}


def number_of_pictures(text: str) -> int | None:
    """None for all"""
    if text == "all":
        return None
    if not text.isdecimal():
        raise FlexEditError(f"--pictures is {text!r}; give a number or all.")
    return int(text)
