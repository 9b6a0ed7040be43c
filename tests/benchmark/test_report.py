import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexedit.benchmark import metrics
from flexedit.benchmark.cases import FORMS, NAMES, Benchmark
from flexedit.benchmark.editors import Answer, Editor, ReturnScene, RoundTrip, Work
from flexedit.benchmark.page import LARGEST, data_uri
from flexedit.benchmark.report import compare, report
from flexedit.benchmark.run import Run, run
from flexedit.benchmark.tables import METRICS
from flexedit.errors import FlexEditError

NASTY = "</script><img src=x onerror=alert(1)> | *replace* it"
BROKEN = "world-swap"
UNAVAILABLE = {
    "clip": "unavailable, because none was given",
    "lpips": "unavailable, because <there> is no file",
}
JUDGE = {"what": "a <small> classifier", "measured": {"accuracy": {"all": 0.975}}}

# of the system "ours" with free-shape masks; with full masks PSNRs are 6 dB higher
KNOWN: dict[str, dict[str, Any]] = {
    "world-remove": {"bg_psnr": 30.0, "psnr": 29.0, "label_right": 1.0, "iou": 0.5, "success": 1.0},
    "world-replace": {"bg_psnr": 20.0, "psnr": 28.0, "label_right": 0.0, "iou": 0.7, "success": 0},
    "world-add": {"bg_psnr": 40.0, "psnr": 27.0, "success": 1.0},
    "world-swap": {"fg_psnr": 10.0, "psnr": 8.0, "label_right": 1.0, "iou": 0.9, "success": 1.0},
    "world-insert": {"fg_psnr": 20.0, "psnr": 18.0, "success": 1.0},
}  # fmt: skip


class Breaks(Editor):
    """Returns the scene, but breaks on one case."""

    name = "ours"

    def answer(self, work: Work) -> list[Answer]:
        if BROKEN in [case.id for case in work.cases]:
            raise FlexEditError(f"no memory left {NASTY}")
        return ReturnScene().answer(work)


def row(benchmark: Benchmark, system: str, case_id: str, form: str, **known: Any) -> dict[str, Any]:
    case = next(case for case in benchmark.cases if case.id == case_id)
    about = ("group", "operation", "kind", "setting", "subject_setting")
    return (
        {"system": system, "case": case_id, "form": form, "status": "ok"}
        | {key: getattr(case, key) for key in about}
        | dict.fromkeys((*METRICS, "extent"))
        | {"seconds": 0.5, **known}
    )


def known_rows(
    benchmark: Benchmark, shift: float = 0.0, name: str = "ours"
) -> list[dict[str, Any]]:
    """`name`'s rows, all PSNRs moved by `shift`, and those of "scene", with 25 dB everywhere."""
    rows = []
    for form in FORMS:
        for case_id, values in KNOWN.items():
            moved = shift + 6 * (form == "full")
            values = {k: v + moved if "psnr" in k else v for k, v in values.items()}
            rows.append(row(benchmark, name, case_id, form, **values))
    for form in FORMS:
        rows += [row(benchmark, "scene", case_id, form, psnr=25.0) for case_id in KNOWN]
    return rows


@pytest.fixture(scope="module")
def benchmark_(tiny_benchmark: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    folder = tmp_path_factory.mktemp("report") / "<mine>"
    shutil.copytree(tiny_benchmark.folder, folder)
    benchmark = Benchmark(folder)
    benchmark.rewrite(replace(case, instruction=NASTY) for case in benchmark.cases)
    return benchmark


@pytest.fixture(scope="module")
def runs(benchmark_: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    out = tmp_path_factory.mktemp("runs")
    systems = (Breaks(), ReturnScene())
    return [run(benchmark_, one, out, batch_size=1, progress=False) for one in systems]


Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(
    benchmark_: Benchmark, runs: list[Run], tmp_path_factory: pytest.TempPathFactory
) -> Write:
    def write(rows: list[dict[str, Any]] | None = None, **options: Any) -> Path:
        out = tmp_path_factory.mktemp("out") / "report"
        rows = known_rows(benchmark_) if rows is None else rows
        systems = [one.system for one in runs]
        report(benchmark_, rows, UNAVAILABLE, systems, out, runs, JUDGE, **options)
        return out

    return write


@pytest.fixture(scope="module")
def written(write: Write) -> Path:
    return write()


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def cells(folder: Path, table: str, section: str, name: str) -> dict[str, Any]:
    rows = content(folder)["tables"][table]["rows"]
    (found,) = [one for one in rows if (one["section"], one["name"]) == (section, name)]
    return found["cells"]


def markdown_row(folder: Path, heading: str, name: str, nth: int = 0) -> list[str]:
    """The cells of the nth row of that name below a heading of the Markdown."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    part = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", lines[nth])[2:-1]]


def page_text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


# Numbers


def test_the_multi_image_table_has_the_means_computed_by_hand(written):
    found = cells(written, "multi", "Free-shape mask", "ours")
    assert found["fg_psnr"] == {"mean": 15, "low": None, "high": None, "count": 2}
    assert found["psnr"]["mean"] == 13
    assert cells(written, "multi", "Full mask", "ours")["fg_psnr"]["mean"] == 21
    assert markdown_row(written, "Multi-image editing", "ours")[1] == "15.00"
    assert '<td title="2 cases">15.00</td>' in page_text(written)


def test_the_single_image_table_is_about_the_background(written):
    found = cells(written, "single", "Free-shape mask", "ours")
    assert found["bg_psnr"] == {"mean": 30, "low": None, "high": None, "count": 3}
    assert found["cases"] == "3"
    assert cells(written, "single", "Free-shape mask", "scene")["bg_psnr"] is None


def test_the_papers_numbers_are_references_in_both_halves(written):
    free, full = (
        cells(written, "multi", form, "FlexEdit (paper)")
        for form in ("Free-shape mask", "Full mask")
    )
    assert (free["fg_clip_t"], full["fg_clip_t"]) == ({"mean": 22.4813}, {"mean": 24.1754})
    single = cells(written, "single", "Free-shape mask", "SmartEdit (paper)")
    assert [cell["mean"] for cell in single.values()] == [21.9535, 0.7620, 0.0781, 20.4910]
    references = [row for row in content(written)["tables"]["multi"]["rows"] if row["reference"]]
    assert len(references) == 2 * 4


def test_mask_understanding_stands_beside_the_scribble_by_kind(write, benchmark_):
    rows = known_rows(benchmark_)
    for one in rows:
        one["kind"] = "circle" if one["case"] in ("world-remove", "world-replace") else "irregular"
        one["scribble_iou"] = None if one["iou"] is None else 0.25
    folder = write(rows)
    circle = cells(folder, "kinds", "ours", "circle")
    assert circle["label_right"]["mean"] == 0.5
    assert circle["iou"]["mean"] == pytest.approx(0.6)
    assert circle["scribble_iou"]["mean"] == 0.25
    every = cells(folder, "kinds", "ours", "all free-shape masks")
    assert every["iou"]["count"] == 3  # two cases mean an empty place
    assert every["iou"]["mean"] == pytest.approx(0.7)
    assert "50.0" in markdown_row(folder, "By kind of mask", "circle")
    bars = page_text(folder).split("Mask understanding IoU</h3>")[1].split("</svg>")[0]
    # ours and the given mask: two kinds, all, full masks
    assert bars.count(">0.250</text>") == 4
    assert [bars.count(f">{iou}</text>") for iou in ("0.600", "0.900", "0.700")] == [1, 1, 2]


def test_success_is_told_by_operation_with_what_the_judge_is(written):
    found = cells(written, "success", "Free-shape mask", "ours")
    known = {"single remove": 1, "single replace": 0, "single add": 1, "all": 0.8}
    known |= {"multi replace": 1, "multi add": 1}
    assert {key: found[key]["mean"] for key in found if key != "cases"} == known
    # four of five: the resamples with less than two are the lowest 0.7 %
    assert found["all"] == {"mean": 0.8, "low": 0.4, "high": 1, "count": 5}
    assert markdown_row(written, "Edit success", "ours")[-1] == "80.0 [40.0 … 100.0]"
    assert "80.0<small>40.0 … 100.0</small>" in page_text(written)
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "- **measured, accuracy, all**: 0.975" in text
    assert "<dd>a &lt;small&gt; classifier</dd>" in page_text(written)


def test_success_is_told_by_how_much_of_the_picture_is_edited(write, benchmark_):
    extents = dict(zip(KNOWN, (0.2, 0.25, 0.3, 0.31, 1.0), strict=True))
    rows = [one | {"extent": extents[one["case"]]} for one in known_rows(benchmark_)]
    found = cells(write(rows), "sizes", "Free-shape mask", "ours")
    means = {key: (found[key]["count"], found[key]["mean"]) for key in found if key != "cases"}
    assert means == {
        "0–20 %": (1, 1), "20–30 %": (2, 0.5), "30–40 %": (1, 1), "60–100 %": (1, 1),
        "all": (5, 0.8),
    }  # fmt: skip


def test_free_and_full_masks_are_compared_case_by_case(written):
    found = cells(written, "forms", "", "Foreground PSNR ↑")
    assert found["ours"] == {"mean": -6, "low": None, "high": None, "count": 2}
    found = cells(written, "forms", "", "Whole image PSNR ↑")
    whole = {"mean": -6, "low": -6, "high": -6, "count": 5}
    assert found["ours"] == pytest.approx(whole)
    assert "−6.00 [−6.00 … −6.00]" in (written / "report.md").read_text(encoding="utf-8")


def test_systems_are_compared_case_by_case(written):
    found = cells(written, "systems", "Free-shape mask", "Whole image PSNR ↑")["scene"]
    assert found["mean"] == pytest.approx(25 - (29 + 28 + 27 + 8 + 18) / 5)
    assert found["count"] == 5


def test_a_metric_without_its_encoder_is_unavailable_and_says_why(written):
    assert cells(written, "multi", "Free-shape mask", "ours")["fg_clip_t"] == "unavailable"
    assert cells(written, "multi", "Free-shape mask", "ours")["fg_dino"] is None  # just undefined
    why = "unavailable, because &lt;there> is no file"
    assert f"- **Whole image LPIPS, Background LPIPS**: {why}" in (
        (written / "report.md").read_text(encoding="utf-8")
    )
    assert "<dd>unavailable, because none was given</dd>" in page_text(written)


def test_every_metric_of_a_row_has_a_name_in_the_report():
    keys = {*metrics.PICTURE_METRICS, *metrics.MASK_METRICS, "success", "seconds"}
    assert METRICS.keys() == keys


def test_failed_cases_are_counted_and_listed_with_their_errors(write, benchmark_):
    rows = known_rows(benchmark_)
    for one in rows:
        if one["system"] == "ours" and one["case"] == BROKEN:
            one |= dict.fromkeys(METRICS) | {"status": "failed", "success": 0.0, "iou": 0.0}
    folder = write(rows)
    found = cells(folder, "multi", "Free-shape mask", "ours")
    assert found["cases"] == "2 (1 failed)"
    assert found["fg_psnr"]["count"] == 1
    assert [(one["case"], one["form"]) for one in content(folder)["failed"]] == [
        (BROKEN, "free"),
        (BROKEN, "full"),
    ]
    error = markdown_row(folder, "Failed cases", "ours")[-1]
    assert error.startswith("no memory left &lt;/script>") and r"\| \*replace\*" in error
    assert "no memory left &lt;/script&gt;" in page_text(folder)
    assert page_text(folder).count("<p>failed</p>") == 2


def test_the_json_has_every_row_and_what_was_measured(written, benchmark_, runs):
    found = content(written)
    assert found["rows"] == known_rows(benchmark_)
    assert found["systems"] == [one.system for one in runs]
    assert found["cases"] == {"kept": 5, "single": 3, "multi": 2, "rejected": 0, "reviewed": 0}
    assert found["benchmark"]["source"] == "world"
    assert found["judge"] == JUDGE and found["unavailable"] == UNAVAILABLE


def test_the_same_rows_write_the_same_bytes(write, written):
    again = write()
    for file in written.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_a_report_of_nothing_is_refused(write):
    with pytest.raises(FlexEditError, match="no case has been run"):
        write([])


# The page


def articles(folder: Path) -> list[str]:
    return re.findall(r'<article data-case="(.*?)">', page_text(folder))


def test_the_page_shows_every_case_with_its_results_in_one_file(written):
    text = page_text(written)
    assert articles(written) == list(KNOWN)
    # two forms of five cases: marked scene, truth, two systems' results less a failed one; and the
    # subjects of two cases
    images = re.findall(r'<img src="(.*?)"', text)
    assert len(images) == 2 * (5 * 4 - 1 + 2)
    loads = re.findall(r'(?:src|href|srcset)="(.*?)"', text)
    assert all(address.startswith("data:") for address in loads)
    assert "url(" not in text and "@import" not in text


def test_no_instruction_can_write_into_the_page(written):
    text = page_text(written)
    assert NASTY not in text
    assert "“&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; | *replace* it”" in text
    assert "&lt;mine&gt;" in text


def test_few_pictures_are_spread_and_worst_cases(write):
    assert articles(write(pictures=2)) == ["world-remove", "world-swap"]
    assert "<article" not in page_text(write(pictures=0))
    assert len(articles(write(pictures=None))) == 5


def test_large_pictures_are_scaled_down_for_the_page():
    noise = np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8)
    uri = data_uri(noise)
    assert uri.startswith("data:image/jpeg;base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert shown.size == (LARGEST, round(LARGEST * 700 / 900))
    assert data_uri(noise[:64, :64]).startswith("data:image/png;base64,")


# Two reports


def differences(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")][:1]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_two_reports_are_compared_case_by_case(write, benchmark_, written):
    text = compare(written, write(known_rows(benchmark_, shift=1.5)) / "report.json")
    before, after, *change = differences(text, "Whole image PSNR")
    assert (before.split()[0], after.split()[0]) == ("22.00", "23.50")
    assert change == ["+1.50 [+1.50 … +1.50]", "5", "better"]
    assert differences(text, "Edit success %")[-1] == "no clear difference"
    assert "5 in both" in text
    assert "**scene, full mask**" in text


def test_a_lower_distance_is_better(write, benchmark_, written):
    def with_lpips(value: float) -> Path:
        return write([one | {"lpips": value} for one in known_rows(benchmark_)])

    text = compare(with_lpips(0.3), with_lpips(0.1))
    assert differences(text, "Whole image LPIPS")[2:] == [
        "−0.2000 [−0.2000 … −0.2000]", "5", "better",
    ]  # fmt: skip
    assert compare(with_lpips(0.1), with_lpips(0.3)).count("| worse |") == 4  # 2 systems, 2 forms


def test_only_cases_with_a_value_in_both_are_compared_and_few_are_no_verdict(write, benchmark_):
    rows = known_rows(benchmark_, shift=2.0)
    for row in rows:
        if row["case"] == "world-insert":
            row["fg_psnr"] = None
    text = compare(write(), write(rows))
    assert differences(text, "Foreground PSNR") == ["10.00", "12.00", "+2.00", "1", "–"]
    assert differences(text, "Background PSNR")[2:] == ["+2.00", "3", "–"]


def test_success_is_compared_only_if_one_judge_gave_it(written, tmp_path):
    path = Path(shutil.copy(written / "report.json", tmp_path))
    assert "success %" in compare(written, path)
    report = json.loads(path.read_text())
    path.write_text(json.dumps(report | {"judge": {"steps": 1}}))
    text = compare(written, path)
    assert "success %" not in text and "Foreground PSNR" in text
    assert "not the same in both, so success is left out" in text


def test_one_system_each_may_have_different_names(write, benchmark_):
    one, other = (
        write([row for row in known_rows(benchmark_, name=name) if row["system"] == name])
        for name in ("ours", "theirs")
    )
    assert "ours (A) and theirs (B), free-shape mask" in compare(one, other)


def test_reports_without_a_common_system_are_not_compared(write, benchmark_, written):
    other = write([row | {"system": row["system"] + "2"} for row in known_rows(benchmark_)])
    with pytest.raises(FlexEditError, match=r"A has ours, scene, B has ours2, scene2"):
        compare(written, other)


def test_a_case_that_changed_is_not_compared_but_one_that_was_reviewed_is(
    write, benchmark_, runs, written, tmp_path
):
    folder = tmp_path / "changed"
    shutil.copytree(benchmark_.folder, folder)
    changed = Benchmark(folder)
    changed.rewrite(replace(case, review="accepted", note="good") for case in changed.cases)
    mask = folder / changed.cases[0].mask
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    systems = [one.system for one in runs]
    report(changed, known_rows(changed), {}, systems, tmp_path / "out", runs, {})
    text = compare(written, tmp_path / "out")
    assert "4 in both, 1 only in A, 1 only in B" in text
    assert differences(text, "Background PSNR")[3] == "2"


@pytest.mark.parametrize("text", [None, "", "[]", '{"format": 99, "rows": []}'])
def test_what_is_no_report_is_told(written, tmp_path, text):
    if text is not None:
        (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(FlexEditError, match=r"report.json"):
        compare(written, tmp_path)


def test_reports_on_other_benchmarks_are_not_compared(written, tmp_path):
    other = content(written)
    other["fingerprints"] = dict.fromkeys(other["fingerprints"], "0" * 16)
    (tmp_path / "report.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(FlexEditError, match="no case in common"):
        compare(written, tmp_path)


def test_a_system_to_compare_with_is_called_so(tiny_benchmark, tmp_path):
    system = {"name": "round-trip", "settings": {"kind": RoundTrip.__name__}}
    rows = known_rows(tiny_benchmark, name="round-trip")
    report(tiny_benchmark, rows, UNAVAILABLE, [system], tmp_path, [], JUDGE)
    assert "the ceiling: the scene through the VAE" in (tmp_path / "report.md").read_text()


# The documentation


def test_the_documentation_names_every_field_and_metric():
    text = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    for name in (*NAMES, *METRICS):
        assert f"`{name}`" in text, name
