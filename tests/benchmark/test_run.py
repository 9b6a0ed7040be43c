import dataclasses
import json
import os
import shutil
import signal
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexedit.benchmark.cases import FORMS, Benchmark, Case
from flexedit.benchmark.editors import Answer, Editor, FlexEdit, ReturnScene, Work, to_uint8
from flexedit.benchmark.run import RESULTS, SYSTEM, Result, Run, case_seed, overhead, run
from flexedit.errors import FlexEditError
from flexedit.pipeline import FlexEditPipeline
from flexedit.prompts import BACKGROUND
from tests.processes import started

NUM_OBJECTS = 3  # of the tiny benchmark's five cases, those whose mask means an object


class Painter(Editor):
    """Covers the scene with noise of the case's seed, and remembers batches."""

    name = "painter"
    paints = True

    def __init__(self) -> None:
        self.batches: list[Work] = []

    def describe(self) -> dict:
        return {"kind": "painter"}

    def answer(self, work: Work) -> list[Answer]:
        self.batches.append(work)
        return [self.paint(*row, work) for row in zip(work.cases, work.seeds, strict=True)]

    def paint(self, case: Case, seed: int, work: Work) -> Answer:
        scene = work.benchmark.picture(case, "scene")
        noise = np.random.default_rng(seed).integers(0, 256, scene.shape, np.uint8)
        if work.task == "segment":
            noise = 255 - noise
        if work.form == "full":
            noise = noise[::-1]
        return Answer(np.ascontiguousarray(noise), f"It's « {case.label} ».", case.label)


class Stuck(Painter):
    """Never answers its sixth batch, so that it can be killed there."""

    def answer(self, work: Work) -> list[Answer]:
        if len(self.batches) == 5:
            time.sleep(3600)
        return super().answer(work)


class Unlucky(Painter):
    """Fails, each time it meets the case that it cannot do, together with that case's batch."""

    def paint(self, case: Case, seed: int, work: Work) -> Answer:
        answer = super().paint(case, seed, work)
        if case.id == "world-replace" and work.form == "free":
            return self.misfortune(answer)
        return answer

    def misfortune(self, answer: Answer) -> Answer:
        raise ValueError("no\nluck")


class Misshapen(Unlucky):
    def misfortune(self, answer: Answer) -> Answer:
        return Answer(answer.picture[:60])


class Overflowed(Unlucky):
    def misfortune(self, answer: Answer) -> Answer:
        return Answer(to_uint8(torch.full((1, 3, 64, 64), torch.nan))[0])


class Speechless(Unlucky):
    def misfortune(self, answer: Answer) -> Answer:
        raise FlexEditError


class Stopped(Unlucky):
    def misfortune(self, answer: Answer) -> Answer:
        raise KeyboardInterrupt


def work_through(benchmark: Benchmark, system: Editor, out: Path, **settings) -> Run:
    return run(benchmark, system, out, progress=False, **settings)


def pictures(done: Run) -> dict:
    """By key, the outputs of a run"""
    return {result.key: done.picture(result) for result in done.results}


def same(one: dict, other: dict, levels: int = 0) -> bool:
    return one.keys() == other.keys() and all(
        np.abs(one[key].astype(int) - other[key]).max() <= levels for key in one
    )


def untimed(done: Run) -> list[Result]:
    return [dataclasses.replace(result, seconds=0.0) for result in done.results]


@pytest.fixture(scope="module")
def whole(tiny_benchmark, tmp_path_factory) -> Run:
    """The painter's run, never interrupted."""
    return work_through(tiny_benchmark, Painter(), tmp_path_factory.mktemp("whole"), batch_size=2)


@pytest.fixture
def benchmark_copy(tiny_benchmark, tmp_path) -> Benchmark:
    return Benchmark(shutil.copytree(tiny_benchmark.folder, tmp_path / "benchmark"))


# What is run, and what is left on disk


def test_every_case_is_edited_in_both_forms_and_those_with_an_object_are_painted(
    whole, tiny_benchmark
):
    expected = {
        (case.id, form, task)
        for case in tiny_benchmark.cases
        for form in FORMS
        for task in ("edit", "segment")
        if task == "edit" or case.label != BACKGROUND
    }
    assert {result.key for result in whole.results} == expected
    assert len(whole.results) == len(expected) == 2 * (5 + NUM_OBJECTS)
    assert {result.status for result in whole.results} == {"ok"}
    for result in whole.results:
        file = whole.folder / f"{result.task}-{result.form}" / f"{result.case}.png"
        assert (np.asarray(Image.open(file)) == whole.picture(result)).all()
        assert (whole.picture(result.case, result.form, result.task) == whole.picture(result)).all()
        assert result.seconds > 0 and result.error == ""
        assert result.reply == f"It's « {result.label} »."
    assert len({whole.picture(result).tobytes() for result in whole.results}) == len(expected)


def test_what_cannot_paint_is_only_asked_to_edit(tiny_benchmark, tmp_path):
    done = work_through(tiny_benchmark, ReturnScene(), tmp_path)
    assert {result.task for result in done.results} == {"edit"}
    assert done.result("world-remove", "full") is not None
    assert done.result("world-remove", "full", "segment") is None
    with pytest.raises(FlexEditError, match="no segment of case 'world-remove' with its free mask"):
        done.picture("world-remove", "free", "segment")


def test_rejected_cases_are_not_run(benchmark_copy, tmp_path):
    first, *others = benchmark_copy.cases
    benchmark_copy.rewrite([dataclasses.replace(first, review="rejected"), *others])
    done = work_through(benchmark_copy, ReturnScene(), tmp_path / "out")
    assert {result.case for result in done.results} == {case.id for case in others}


def test_batches_hold_cases_of_one_size_only(tiny_benchmark, tmp_path):
    painter = Painter()
    work_through(tiny_benchmark, painter, tmp_path, batch_size=3)
    for work in painter.batches:
        assert work.request.batch_size == len(work.cases)  # which stacks scenes and subjects
    edits, paints = (
        [
            [case.id.removeprefix("world-") for case in work.cases]
            for work in painter.batches
            if (work.task, work.form) == (task, "free")
        ]
        for task in ("edit", "segment")
    )
    assert edits == [["remove", "replace"], ["add"], ["swap", "insert"]]
    assert paints == [["remove", "replace", "swap"]]  # subjects are not looked at
    painter = Painter()
    work_through(tiny_benchmark, painter, tmp_path / "pairs", batch_size=2)
    assert [len(work.cases) for work in painter.batches if work.task == "segment"] == [2, 2, 1, 1]


def test_sizes_are_those_of_the_pixels_that_are_read(benchmark_copy, tmp_path):
    odd = next(case for case in benchmark_copy.cases if case.id == "world-add")
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was held upright
    scene = Image.open(benchmark_copy.folder / odd.scene)
    scene.save(benchmark_copy.folder / "turned.png", exif=exif)
    turned = dataclasses.replace(odd, id="turned", scene="turned.png")
    benchmark_copy.rewrite([odd, turned])
    painter = Painter()
    work_through(benchmark_copy, painter, tmp_path / "out")
    assert all(work.cases == (odd, turned) for work in painter.batches)


def test_a_batch_is_read_before_the_system_is_timed_and_forgotten_afterwards(
    tiny_benchmark, tmp_path
):
    class Curious(Editor):
        name = "curious"
        scenes: list[weakref.ref] = []

        def answer(self, work: Work) -> list[Answer]:
            assert "request" in vars(work)
            assert [scene() for scene in self.scenes] == [None] * len(self.scenes)
            self.scenes.append(weakref.ref(work.request.scene))
            return ReturnScene().answer(work)

    done = work_through(tiny_benchmark, Curious(), tmp_path, batch_size=2)
    assert {result.error for result in done.results} == {""}
    assert len(Curious.scenes) == 6


# Seeds


def test_seeds_are_the_same_on_every_machine_and_differ_by_case_and_seed(tiny_benchmark):
    first, second = tiny_benchmark.cases[:2]
    assert case_seed(0, dataclasses.replace(first, id="world-0001")) == 748720725
    assert len({case_seed(0, first), case_seed(0, second), case_seed(1, first)}) == 3


def test_a_models_results_do_not_depend_on_the_batch_size(tiny, tiny_benchmark, tmp_path):
    pipeline = FlexEditPipeline.from_pretrained(tiny, "cpu")
    system = FlexEdit(pipeline, "generate", num_steps=2, edit_cfg=1.5)
    one, three = (
        work_through(tiny_benchmark, system, tmp_path / str(size), batch_size=size)
        for size in (1, 3)
    )
    assert same(pictures(one), pictures(three), levels=1)
    said = (
        {result.key: (result.reply, result.label) for result in done.results}
        for done in (one, three)
    )
    assert next(said) == next(said)


def test_results_do_not_depend_on_the_order_of_the_cases(whole, benchmark_copy, tmp_path):
    benchmark_copy.rewrite(reversed(benchmark_copy.cases))
    turned = work_through(benchmark_copy, Painter(), tmp_path / "out", batch_size=3)
    assert same(pictures(turned), pictures(whole))
    other = work_through(benchmark_copy, Painter(), tmp_path / "other", seed=1)
    assert not same(pictures(other), pictures(whole))


# Stopping and going on


def assert_same_run(done: Run, whole: Run) -> None:
    assert untimed(done) == untimed(whole)
    files = sorted(file.relative_to(whole.folder) for file in whole.folder.rglob("*.png"))
    assert files == sorted(file.relative_to(done.folder) for file in done.folder.rglob("*.png"))
    for file in files:
        assert (done.folder / file).read_bytes() == (whole.folder / file).read_bytes()


def test_a_killed_run_goes_on_as_if_nothing_had_happened(whole, tiny_benchmark, tmp_path):
    process = started(work_through, tiny_benchmark, Stuck(), tmp_path, batch_size=2)
    results = tmp_path / "painter" / RESULTS
    while not results.is_file() or results.read_bytes().count(b"\n") < 5:
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = len(Run(tmp_path / "painter").results)
    assert 5 <= before < len(whole.results)

    painter = Painter()
    done = work_through(tiny_benchmark, painter, tmp_path, batch_size=2)
    assert sum(len(work.cases) for work in painter.batches) == len(whole.results) - before
    assert_same_run(done, whole)


def test_a_line_that_was_torn_by_a_kill_is_run_again(whole, tiny_benchmark, tmp_path):
    folder = shutil.copytree(whole.folder, tmp_path / "painter")
    content = (folder / RESULTS).read_bytes()
    (folder / RESULTS).write_bytes(content[:-20])
    assert len(Run(folder).results) == len(whole.results) - 1
    assert_same_run(work_through(tiny_benchmark, Painter(), tmp_path, batch_size=2), whole)


def test_an_interrupt_from_the_keyboard_ends_the_run_at_once(tiny_benchmark, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        work_through(tiny_benchmark, Stopped(), tmp_path, batch_size=1)
    left = Run(tmp_path / "painter")
    assert {result.case for result in left.results} == {"world-remove"}
    with pytest.raises(FlexEditError, match="was never finished"):
        overhead(left)
    painter = Painter()
    work_through(tiny_benchmark, painter, tmp_path, batch_size=1)
    assert len(painter.batches) == 2 * (5 + NUM_OBJECTS) - len(left.results)


def test_a_finished_run_is_read_without_loading_the_system(whole, tiny_benchmark):
    class Broken(Painter):
        def load(self) -> None:
            raise AssertionError

    before = (whole.folder / SYSTEM).read_bytes()
    done = work_through(tiny_benchmark, Broken(), whole.folder.parent, batch_size=2)
    assert untimed(done) == untimed(whole)
    assert (whole.folder / SYSTEM).read_bytes() == before


def test_a_form_that_is_asked_for_twice_is_run_once(tiny_benchmark, tmp_path):
    done = work_through(tiny_benchmark, Painter(), tmp_path, forms=("free", "free"))
    assert len(done.results) == len({result.key for result in done.results}) == 5 + NUM_OBJECTS


def test_a_form_can_be_added_later(whole, tiny_benchmark, tmp_path):
    first = work_through(tiny_benchmark, Painter(), tmp_path, forms=("full",))
    assert {result.form for result in first.results} == {"full"}
    assert same(pictures(work_through(tiny_benchmark, Painter(), tmp_path)), pictures(whole))


# A folder that holds something else


class Described(Painter):
    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.settings = settings

    def describe(self) -> dict:
        return {"kind": "painter", **self.settings}


def test_other_settings_or_another_seed_are_refused(tiny_benchmark, tmp_path):
    work_through(tiny_benchmark, Described(brush=(3, 4)), tmp_path)
    work_through(tiny_benchmark, Described(brush=(3, 4)), tmp_path)
    with pytest.raises(FlexEditError, match=r"settings\.brush was \[3, 4\] and is 5"):
        work_through(tiny_benchmark, Described(brush=5), tmp_path)
    with pytest.raises(FlexEditError, match=r"settings\.ink was None and is 'red'"):
        work_through(tiny_benchmark, Described(brush=(3, 4), ink="red"), tmp_path)
    with pytest.raises(FlexEditError, match="painter holds another run: seed was 0 and is 1"):
        work_through(tiny_benchmark, Described(brush=(3, 4)), tmp_path, seed=1)


@pytest.mark.parametrize("change", ["mask", "words", "fewer"])
def test_a_run_on_other_cases_is_refused(benchmark_copy, tmp_path, change):
    work_through(benchmark_copy, Painter(), tmp_path / "out")
    first, *others = benchmark_copy.cases
    if change == "mask":
        Image.new("L", (64, 64), 255).save(benchmark_copy.folder / first.mask)
    elif change == "words":
        benchmark_copy.rewrite([dataclasses.replace(first, instruction="do it"), *others])
    else:
        benchmark_copy.rewrite(others)
    with pytest.raises(FlexEditError, match="another benchmark, or the cases have changed"):
        work_through(benchmark_copy, Painter(), tmp_path / "out")


def test_an_index_is_kept_as_it_is_so_that_old_runs_go_on(benchmark_copy):
    index = benchmark_copy.folder / "cases.jsonl"
    row = json.loads(index.read_text(encoding="utf-8").partition("\n")[0])
    row |= {"orientation": 30, "caption": None}
    index.write_text(json.dumps(row), encoding="utf-8")
    (case,) = Benchmark(benchmark_copy.folder).cases
    assert json.dumps(dataclasses.asdict(case)) == json.dumps(row)


def test_a_case_that_is_reviewed_or_rejected_later_leaves_the_run_valid(benchmark_copy, tmp_path):
    done = work_through(benchmark_copy, Painter(), tmp_path / "out")
    first, second, *others = benchmark_copy.cases
    changed = [
        dataclasses.replace(first, review="rejected"),
        dataclasses.replace(second, review="accepted", note="fine"),
    ]
    benchmark_copy.rewrite([*changed, *others])
    assert untimed(work_through(benchmark_copy, Painter(), tmp_path / "out")) == untimed(done)


def test_a_folder_that_is_no_run_is_named(tmp_path, tiny_benchmark):
    with pytest.raises(FlexEditError, match=r"is not a run: system.json cannot be read"):
        Run(tmp_path)
    (tmp_path / "painter").mkdir()
    (tmp_path / "painter" / RESULTS).write_text("")
    with pytest.raises(FlexEditError, match=r"results but no system\.json"):
        work_through(tiny_benchmark, Painter(), tmp_path)
    (tmp_path / "painter" / SYSTEM).write_text("{}")
    (tmp_path / "painter" / RESULTS).write_text('{"case": "a"}\n')
    with pytest.raises(FlexEditError, match=r"results.jsonl is not of a run: .* setting form"):
        Run(tmp_path / "painter")


def test_an_output_that_is_gone_is_named(whole, tmp_path):
    folder = shutil.copytree(whole.folder, tmp_path / "painter")
    (folder / "edit-free" / "world-add.png").unlink()
    with pytest.raises(FlexEditError, match=r"world-add\.png cannot be read"):
        Run(folder).picture("world-add")


# Cases that fail


@pytest.mark.parametrize(
    "system, complaint",
    [
        (Unlucky, "ValueError: no luck"),
        (Overflowed, "The output is not a picture: its numbers overflowed."),
        (Speechless, ""),
        (Misshapen, "The output is a uint8 array of shape (60, 64, 3); the scene's is uint8 and"),
    ],
)
def test_a_case_that_fails_is_counted_and_takes_no_other_with_it(
    system, complaint, whole, tiny_benchmark, tmp_path
):
    done = work_through(tiny_benchmark, system(), tmp_path, batch_size=4)
    failed = [result for result in done.results if result.status == "failed"]
    assert {result.key for result in failed} == {
        ("world-replace", "free", "edit"),
        ("world-replace", "free", "segment"),
    }
    for result in failed:
        assert result.error.startswith(complaint) and "\n" not in result.error
        assert result.seconds > 0 and done.picture(result) is None
    good = {
        key: picture for key, picture in pictures(whole).items() if key[:2] != failed[0].key[:2]
    }
    assert same({k: v for k, v in pictures(done).items() if v is not None}, good)
    assert len(done.results) == len(whole.results)

    again = system()
    assert untimed(work_through(tiny_benchmark, again, tmp_path, batch_size=4)) == untimed(done)
    assert again.batches == []


def test_too_few_answers_fail_rather_than_shift_the_cases(tiny_benchmark, tmp_path):
    class Short(Painter):
        def answer(self, work: Work) -> list[Answer]:
            return super().answer(work)[1:]

    done = work_through(tiny_benchmark, Short(), tmp_path, forms=("free",))
    assert {result.error for result in done.results} == {"The system gave 0 answers for 1 cases."}


def test_a_system_that_cannot_be_loaded_fails_no_case(tiny_benchmark, tmp_path):
    class Absent(Painter):
        def load(self) -> None:
            raise FlexEditError("There are no weights.")

    with pytest.raises(FlexEditError, match="no weights"):
        work_through(tiny_benchmark, Absent(), tmp_path)
    assert Run(tmp_path / "painter").results == ()


def test_a_broken_benchmark_is_no_failure_of_the_system(benchmark_copy, tmp_path):
    case = benchmark_copy.cases[1]
    file = benchmark_copy.folder / case.mask
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(FlexEditError, match="'world-replace' has no readable mask"):
        work_through(benchmark_copy, Painter(), tmp_path / "out")
    file.unlink()
    with pytest.raises(FlexEditError, match=r"world-replace\.png cannot be read"):
        work_through(benchmark_copy, Painter(), tmp_path / "other")


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"forms": ("free", "round")}, "Unknown mask form 'round'; choose from free, full"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_benchmark, tmp_path, settings, complaint):
    with pytest.raises(FlexEditError, match=complaint):
        work_through(tiny_benchmark, Painter(), tmp_path, **settings)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b"])
def test_a_name_that_cannot_be_a_folder_is_refused(tiny_benchmark, tmp_path, name):
    with pytest.raises(FlexEditError, match="cannot be a folder's"):
        work_through(tiny_benchmark, ReturnScene(name), tmp_path)


# Time and progress


def test_time_is_told_apart_into_loading_answering_and_the_runners_own(tiny_benchmark, tmp_path):
    done = work_through(tiny_benchmark, Painter(), tmp_path, batch_size=2)
    seconds = done.system["seconds"]
    assert min(seconds["load"], seconds["answer"]) > 0
    assert seconds["answer"] == pytest.approx(sum(result.seconds for result in done.results))
    assert seconds["load"] + seconds["answer"] < seconds["total"]
    own = seconds["total"] - seconds["load"] - seconds["answer"]
    assert overhead(done) == pytest.approx(own / seconds["answer"])


def test_progress_goes_to_standard_error_and_counts_what_failed(tiny_benchmark, tmp_path, capsys):
    run(tiny_benchmark, Unlucky(), tmp_path, batch_size=4)
    out, err = capsys.readouterr()
    assert out == ""
    assert "painter: 100%" in err and "16/16" in err and "failed=2" in err
    work_through(tiny_benchmark, Painter(), tmp_path / "quiet")
    assert capsys.readouterr().err == ""


def test_system_json_says_what_was_run_on_what(whole):
    about = json.loads((whole.folder / SYSTEM).read_text())
    assert about == whole.system
    assert set(about) == {"format", "made_by", "name", "settings", "benchmark", "seed", "seconds"}
    assert about["name"] == "painter" and about["settings"] == {"kind": "painter"}
    assert str(whole.folder.parent) not in json.dumps(about)
