"""What the ablation found, in the shape of the paper's Tables 3 and 4."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flexedit.benchmark.tables import (
    Cell,
    Column,
    Estimate,
    Row,
    Rows,
    Table,
    counted,
    difference,
    estimate,
    metric_columns,
    select,
)

from .cases import GROUPS
from .logs import KEYS, NUMBERS, START, STRENGTH, SWEPT, Log

TITLES = {
    "full": "FlexEdit",
    "no-ca": "without CA",
    "no-dca": "without DCA (general cross-attention)",
    "no-segmentation": "without segmentation co-training",
    "full-masks": "full masks only in training",
    "instructpix2pix": "text encoder instead of the VLLM (InstructPix2Pix)",
    "literal-eq6": "eq. 6 to the letter (no residual)",
    "shared-kv": "eq. 7 to the letter (shared K and V)",
    "clean-input": "clean scene to the VAE",
    "generate": "FlexEdit, generate instead of direct",
    START: "the model that all start from",
}
AUTHORS = ("full", "no-ca", "no-dca", "no-segmentation", "full-masks", "instructpix2pix")
READINGS = ("literal-eq6", "shared-kv", "clean-input", "generate")

# Tables 3 and 4 of the paper: foreground PSNR, CLIP-T, whole PSNR, LPIPS; PSNR, SSIM, LPIPS, CLIP-T
PAPER_MULTI = {
    "full": {"fg_psnr": 12.5794, "fg_clip_t": 22.4391, "psnr": 17.9068, "lpips": 0.1585},
    "no-ca": {"fg_psnr": 12.1836, "fg_clip_t": 21.6230, "psnr": 17.5058, "lpips": 0.1806},
    "no-dca": {"fg_psnr": 11.8367, "fg_clip_t": 21.3692, "psnr": 17.0976, "lpips": 0.1813},
}
PAPER_SINGLE = {
    "full": {"bg_psnr": 22.8081, "bg_ssim": 0.7712, "bg_lpips": 0.0727, "fg_clip_t": 20.7081},
    "no-ca": {"bg_psnr": 21.8579, "bg_ssim": 0.7546, "bg_lpips": 0.0931, "fg_clip_t": 19.8630},
    "no-dca": {"bg_psnr": 20.4195, "bg_ssim": 0.7230, "bg_lpips": 0.1186, "fg_clip_t": 19.8566},
}


def tables(logs: Sequence[Log]) -> list[Table]:
    """All that the logs have something to say about."""
    found = {name: averaged(logs, name) for name in distinct_variants(logs)}
    return [
        table
        for table in (
            in_the_papers_shape(
                found, "multi", "Multi-image editing, as in the paper's Table 3",
                ("success", "fg_psnr", "psnr", "bg_psnr", "fg_clip_t", "lpips"), PAPER_MULTI,
            ),
            in_the_papers_shape(
                found, "single", "Single-image editing, as in the paper's Table 4",
                ("success", "bg_psnr", "bg_ssim", "fg_psnr", "bg_lpips", "fg_clip_t"), PAPER_SINGLE,
            ),
            by_variant(found, logs),
            against_full(logs),
            by_mask(found),
            by_strength(logs),
        )
        if table.is_measured
    ]  # fmt: skip


def distinct_variants(logs: Sequence[Log]) -> list[str]:
    """In the order of TITLES; the λ sweep after them."""
    names = {str(log.facts["variant"]) for log in logs}
    known = [name for name in TITLES if name in names]
    return known + [name for variant in known for name in sweep_of(variant, names).values()]


def sweep_of(variant: str, names: Iterable[str]) -> dict[float, str]:
    """By λ, in order, the names of a variant's runs with another λ than 1."""
    prefix = variant + STRENGTH
    found = {float(name.removeprefix(prefix)): name for name in names if name.startswith(prefix)}
    return dict(sorted(found.items()))


def averaged(
    logs: Sequence[Log], variant: str, seeds: Container[Any] | None = None
) -> list[dict[str, Any]]:
    """One row per case and form: the mean over the seeds (default: all that there are), so that
    cases are what is resampled.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for log in logs:
        if log.facts["variant"] == variant and (seeds is None or log.facts["seed"] in seeds):
            for row in log.rows:
                groups.setdefault((row["case"], row["form"]), []).append(row)
    return [
        {key: rows[0][key] for key in KEYS} | {key: mean_of(rows, key) for key in NUMBERS}
        for rows in groups.values()
    ]


def mean_of(rows: Rows, key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return float(np.mean(values)) if values else None


def in_the_papers_shape(
    found: Mapping[str, Rows],
    group: str,
    title: str,
    metrics: Sequence[str],
    paper: Mapping[str, Mapping[str, float]],
) -> Table:
    """Rows full, without CA, without DCA; then the paper's own."""
    rows = []
    for name in paper:
        if cases := select(found.get(name, []), group=group, form="free"):
            known = [key for key in metrics if key in NUMBERS]
            rows.append(Row("", TITLES[name], cells_of(cases, known)))
    for name, numbers in paper.items():
        cells: dict[str, Cell] = {key: Estimate(key, value) for key, value in numbers.items()}
        rows.append(Row("", f"{TITLES[name]} (paper)", cells, is_reference=True))
    note = (
        "Means over cases of the mean over seeds. The paper's rows were measured at full scale, on "
        "other pictures and with other encoders: what can be compared is the order of the rows. "
        "Which of its last two rows is which is told by its text; CLIP-I and DINO are left out."
    )
    return Table(group, title, note, "variant", metric_columns(metrics), tuple(rows))


def by_variant(found: Mapping[str, Rows], logs: Sequence[Log]) -> Table:
    """What each variant understands and achieves, with free-shape masks."""
    columns = (
        Column("seeds", "seeds"),
        Column("minutes", "core minutes of training, at least"),
        Column("label_right", "label accuracy %"),
        Column("iou", "painted IoU"),
        *(Column(f"single {name}", name, "success %") for name in ("remove", "replace", "add")),
        *(Column(f"multi {name}", f"subject {name}", "success %") for name in ("add", "replace")),
        Column("success", "all", "success %"),
        Column("bg_psnr", "background PSNR"),
    )
    rows = []
    for section, names in (
        ("The authors' choices", AUTHORS),
        ("Our readings", READINGS),
        ("For comparison", (START,)),
    ):
        for name in names:
            if cases := select(found.get(name, []), form="free"):
                own = [log for log in logs if log.facts["variant"] == name]
                cells: dict[str, Any] = {"seeds": str(len(own)), "minutes": minutes(own)}
                for column in columns[2:]:
                    group, _, operation = column.key.partition(" ")
                    part = select(cases, group=group, operation=operation) if operation else cases
                    cells[column.key] = estimate(part, "success" if operation else column.key)
                rows.append(Row(section, TITLES[name], cells))
    note = (
        "Free-shape masks. All start from the same finished model with a new adapter; it stands in "
        "the last row with its own adapter, which has trained far longer. Two variants "
        "only leave out what that model has learned before: segmentation, and rough masks. Three "
        "begin with inputs that it has never had: eq. 6 to the letter, the clean scene, and the "
        "text encoder's words, which also come without any subject picture."
    )
    return Table("variants", "All variants", note, "variant", columns, tuple(rows))


def minutes(logs: Sequence[Log]) -> str:
    """Of one training on average, by the clock times the cores that it used; "" if unknown.

    At its fastest pace: it may have been paused, or other programs have run beside it.
    """
    known = []
    for log in logs:
        if "threads" in log.facts and len(log.curve) > 1:
            steps, seconds = ([row[key] for row in log.curve] for key in ("step", "seconds"))
            pace = (np.diff(seconds) / np.diff(steps)).min()
            known.append(pace * steps[-1] * log.facts["threads"])
    return f"{np.mean(known) / 60:.0f}" if known else ""


def seeds_of(logs: Sequence[Log], variant: str) -> set[Any]:
    return {log.facts["seed"] for log in logs if log.facts["variant"] == variant}


def against_full(logs: Sequence[Log]) -> Table:
    columns = tuple(
        Column(f"{group} {metric}", name, f"{group}-image")
        for group in GROUPS
        for metric, name in (("success", "success"), ("fg_psnr", "fg PSNR"), ("bg_psnr", "bg PSNR"))
    )
    rows = []
    for name in (*AUTHORS[1:], *READINGS):
        cells: dict[str, Cell] = {}
        shared = seeds_of(logs, name) & seeds_of(logs, "full")
        pair = [averaged(logs, one, shared) for one in (name, "full")]
        for column in columns:
            group, _, metric = column.key.partition(" ")
            a, b = (select(cases, group=group, form="free") for cases in pair)
            cells[column.key] = difference(a, b, metric, "case")
        if any(cells.values()):
            rows.append(Row("", TITLES[name], cells))
    note = (
        "Each variant minus FlexEdit with the same seeds, paired by case, with 95 % bootstrap "
        "intervals over cases. An interval that leaves out 0 is a difference that other cases "
        "would most likely show too; what other seeds would show, three seeds hardly tell."
    )
    return Table("differences", "Against FlexEdit", note, "variant", columns, tuple(rows))


def by_mask(found: Mapping[str, Rows]) -> Table:
    """What it is worth to have trained on rough masks."""
    metrics = ("success", "label_right", "iou")
    columns = (*metric_columns(metrics), Column("difference", "success, free − full"))
    rows = []
    for name in ("full", "full-masks"):
        free, full = (select(found.get(name, []), form=form) for form in ("free", "full"))
        for title, part in (("free-shape masks", free), ("full masks", full)):
            if part:
                rows.append(Row(TITLES[name], title, cells_of(part, metrics)))
        if free and full:
            rows[-2].cells["difference"] = difference(free, full, "success", "case")
    note = "The same cases with both forms of mask; the difference is paired by case."
    return Table("masks", "Run with rough and with full masks", note, "mask", columns, tuple(rows))


def cells_of(cases: Rows, metrics: Sequence[str]) -> dict[str, Cell]:
    """For `metric_columns`"""
    return {"cases": counted(cases)} | {key: estimate(cases, key) for key in metrics}


def by_strength(logs: Sequence[Log]) -> Table:
    """Each variant with the seeds that it was run with by every λ."""
    metrics = ("success", "fg_psnr", "bg_psnr")
    columns = (*metric_columns(metrics), Column("difference", "success, less that of λ = 1"))
    rows = []
    for name in SWEPT:
        runs = {**sweep_of(name, distinct_variants(logs)), 1.0: name}
        shared = set.intersection(*(seeds_of(logs, run) for run in runs.values()))
        if len(runs) == 1 or not shared:
            continue
        usual = select(averaged(logs, name, shared), group="multi", form="free")
        for strength, run in sorted(runs.items()):
            part = select(averaged(logs, run, shared), group="multi", form="free")
            cells = cells_of(part, metrics)
            if strength != 1:
                cells["difference"] = difference(part, usual, "success", "case")
            rows.append(Row(TITLES[name], f"λ = {strength:g}", cells))
    note = "Cases with a subject; the weight λ of its attention (eq. 7); they are trained with 1."
    return Table("strength", "The subject's weight", note, "λ", columns, tuple(rows))
