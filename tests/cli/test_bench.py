"""The commands as a person types them."""

import json
import shutil
from pathlib import Path

import pytest

from flexedit import cli
from flexedit.benchmark import extra
from flexedit.benchmark.cases import INDEX, META, Benchmark


def bench(*words: object) -> int:
    return cli.main(["bench", *map(str, words)])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "cases"
    assert bench("build", "--out", folder, "--single", 6, "--multi", 4, "--seed", 3) == 0
    return folder


@pytest.fixture(scope="module")
def reported(built):
    out = built.parent / "report"
    systems = ("--system", "scene", "--system", "truth")
    assert bench("run", built, "--out", out, *systems, "--pictures", "all") == 0
    return out


def test_build_writes_what_was_asked_for(built):
    benchmark = Benchmark(built)
    assert [case.group for case in benchmark.cases] == ["single"] * 6 + ["multi"] * 4
    assert benchmark.meta["seed"] == 3


def test_run_writes_three_reports_and_prints_the_tables(built, reported, capsys):
    systems = ("--system", "scene", "--system", "truth")
    assert bench("run", built, "--out", reported, *systems) == 0  # again: nothing is left to do
    assert (reported / "report.md").read_text() in capsys.readouterr().out
    names = {path.name for path in reported.iterdir() if path.is_file()}
    assert names == {"report.json", "report.md", "report.html"}
    rows = json.loads((reported / "report.json").read_text())["rows"]
    assert {(row["system"], row["form"]) for row in rows} == {
        (system, form) for system in ("scene", "truth") for form in ("free", "full")
    }
    assert len(rows) == 4 * 10
    truth = [row for row in rows if row["system"] == "truth"]
    assert {row["psnr"] for row in truth} == {100.0}
    assert min(row["iou"] for row in truth if row["iou"] is not None) > 0.9
    assert all(row["success"] is not None for row in rows)


def test_a_report_on_one_form_leaves_out_the_other_that_was_run_before(built, tmp_path):
    (tmp_path / "pictures").mkdir()  # without any picture, so that all cases fail
    system = ("--system", f"pictures:{tmp_path / 'pictures'}")
    for form, forms in ((), {"free", "full"}), (("--form", "free"), {"free"}):
        assert bench("run", built, "--out", tmp_path / "out", *system, *form) == 0
        content = json.loads((tmp_path / "out" / "report.json").read_text())
        for part in ("rows", "failed"):
            assert {one["form"] for one in content[part]} == forms


def test_compare_prints_paired_differences(built, reported, tmp_path, capsys):
    scene = tmp_path / "scene"
    assert bench("run", built, "--out", scene, "--system", "scene,name=truth") == 0
    capsys.readouterr()
    assert bench("compare", scene, reported) == 0
    printed = capsys.readouterr().out
    assert "better" in printed and "10 in both" in printed


def test_what_measuring_needs_is_told_before_anything_is_run(built, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extra, "find_spec", lambda _: None)
    assert bench("run", built, "--out", tmp_path / "out", "--system", "scene") == 2
    assert "pip install torchmetrics" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "{built}", "--out", "{tmp}", "--system", "nonsense"), "Unknown system"),
        (("run", "{built}", "--out", "{tmp}", "--form", "half"), "Unknown mask form 'half'"),
        (("run", "{built}", "--out", "{tmp}", "--pictures", "-1"), "--pictures is '-1'"),
        (("run", "{tmp}", "--out", "{tmp}"), "is not a benchmark"),
        (("run", "{built}", "--out", "{built}/cases.jsonl"), "Not a directory"),
        (("run", "{built}", "--out", "{tmp}", "--device", "nonsense"), "'nonsense' cannot be used"),
        (("build", "--out", "{tmp}/x", "--single", "0", "--multi", "0"), "nothing to build"),
        (("build", "--out", "{tmp}/x", "--source", "nowhere"), "Unknown source 'nowhere'"),
        (("compare", "{tmp}", "{tmp}"), "cannot be read as a report"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(words, message, built, tmp_path, capsys):
    with_paths = [word.format(built=built, tmp=tmp_path) for word in words]
    with_system = [*with_paths, "--system", "scene"] if words[0] == "run" else with_paths
    assert bench(*with_system) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def refused(benchmark: Path, out: Path, capsys: pytest.CaptureFixture) -> str:
    assert bench("run", benchmark, "--out", out, "--system", "truth") == 2
    assert not out.exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["../escape", "/tmp/escape", "", ".hidden", "a/b"])
def test_an_id_that_leads_out_of_the_folder_is_refused(name, built, tmp_path, capsys):
    copy = shutil.copytree(built, tmp_path / "copy")
    first, *others = (copy / INDEX).read_text().splitlines()
    changed = json.loads(first) | {"id": name}
    (copy / INDEX).write_text("\n".join([json.dumps(changed), *others]) + "\n")
    assert "cannot name a file" in refused(copy, tmp_path / "out", capsys)


@pytest.mark.parametrize("meta", ["[]", "7", '{"format": 99}', "no JSON"])
def test_a_folder_of_another_format_is_refused(meta, built, tmp_path, capsys):
    copy = shutil.copytree(built, tmp_path / "copy")
    (copy / META).write_text(meta)
    assert str(copy) in refused(copy, tmp_path / "out", capsys)
