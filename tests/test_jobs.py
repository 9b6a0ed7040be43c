import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from filelock import FileLock
from PIL import Image

from flexedit.cli import main
from flexedit.errors import FlexEditError
from flexedit.jobs import PARTIAL, RESULTS, Journal, read_jobs
from flexedit.pipeline import FlexEditPipeline
from tools.comfyui.fetch import PACK

ROW = {"scene": "a.png", "mask": "mask.png", "instruction": "remove it"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in (("a", (24, 40)), ("b", (32, 16))):
        pixels = rng.integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    mask = np.zeros((24, 40), np.uint8)
    mask[8:16, 8:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def write_list(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "edits.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def run(folder, tiny) -> Callable[..., int]:
    def run(*words: object) -> int:
        common = ("--list", folder / "edits.jsonl", "--model", tiny, "--device", "cpu")
        arguments = ("batch", *common, "--out", folder / "out", "--steps", 2, *words)
        return main([str(argument) for argument in arguments])

    return run


def results(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "out" / RESULTS).read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "out" in row]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_batch_makes_what_single_edits_make(folder, tiny, run, capsys):
    subject = ROW | {"scene": "b.png", "subject": "a.png", "seed": 7, "out": "mine.png"}
    write_list(folder, ROW, subject, ROW | {"task": "segment", "mask": None})
    assert run("--json", "--edit-cfg", 2) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {"out": str(folder / "out"), "done": 3, "failed": 0, "before": 0}
    outs = ["000001_a.png", "mine.png", "000003_a.png"]
    assert [row["out"] for row in results(folder)] == outs
    single = (
        ["--scene", "a.png", "--mask", "mask.png"],
        ["--scene", "b.png", "--mask", "mask.png", "--subject", "a.png", "--seed", "7"],
        ["--scene", "a.png", "--task", "segment"],
    )
    common = ["--model", tiny, "--device", "cpu", "--instruction", "remove it", "--steps", "2"]
    for out, words in zip(outs, single, strict=True):
        words = [str(folder / word) if word.endswith(".png") else word for word in words]
        arguments = ["edit", *words, *common, "--edit-cfg", 2, "--out", folder / "one.png"]
        assert main([str(argument) for argument in arguments]) == 0
        assert np.array_equal(pixels(folder / "one.png"), pixels(folder / "out" / out))


def test_what_is_done_is_not_done_again(folder, run, monkeypatch, capsys):
    calls, edit = [], FlexEditPipeline.__call__

    def counting(self, request, **settings):
        calls.append(request.instructions[0])
        return edit(self, request, **settings)

    monkeypatch.setattr(FlexEditPipeline, "__call__", counting)
    write_list(folder, ROW, ROW | {"instruction": "paint it"})
    assert run() == 0
    with (folder / "out" / RESULTS).open("a") as file:
        file.write('{"out": ["not a name"]}\n')
    assert run() == 0
    assert "before: 2" in capsys.readouterr().out
    assert calls == ["remove it", "paint it"]
    (folder / "out" / "000001_a.png").unlink()  # gone, so it is made again
    write_list(folder, ROW, ROW | {"instruction": "paint it"}, ROW | {"instruction": "turn it"})
    assert run() == 0
    assert calls[2:] == ["remove it", "turn it"]
    write_list(folder, ROW | {"seed": 3}, ROW | {"instruction": "paint it"})
    assert run() == 0
    assert calls[4:] == ["remove it"]
    assert run("--reply", "generate") == 0  # other settings make other pictures
    assert calls[5:] == ["remove it", "paint it"]


def test_an_edit_that_fails_ends_no_other_and_is_tried_again(folder, run, capsys):
    write_list(folder, ROW | {"scene": "none.png"}, ROW | {"instruction": " "}, ROW)
    assert run() == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("flexedit: 2 of 3 edits failed; ") and RESULTS in said
    first, second, third = results(folder)
    assert "none.png" in first["error"] and "instruction is empty" in second["error"]
    assert "error" not in third and (folder / "out" / third["out"]).is_file()
    Image.open(folder / "b.png").save(folder / "none.png")
    write_list(folder, ROW | {"scene": "none.png"}, ROW | {"instruction": "go"}, ROW)
    assert run() == 0
    assert "done: 2\nfailed: 0\nbefore: 1" in capsys.readouterr().out


def test_too_little_memory_for_one_edit_ends_no_other(folder, run, monkeypatch):
    edit = FlexEditPipeline.__call__

    def greedy(self, request, **settings):
        if request.width == 16:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return edit(self, request, **settings)

    monkeypatch.setattr(FlexEditPipeline, "__call__", greedy)
    write_list(folder, ROW | {"scene": "b.png"}, ROW)
    assert run() == 2
    first, second = results(folder)
    assert "not enough memory" in first["error"] and "error" not in second


def test_a_model_that_cannot_be_loaded_fails_before_any_edit(folder, tiny, capsys, run):
    shutil.copytree(tiny, folder / "model")
    (folder / "model" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    write_list(folder, ROW)
    assert run("--model", folder / "model") == 2
    assert "vae cannot be loaded" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_parts_make_the_whole(folder, run):
    write_list(folder, *(ROW | {"seed": seed} for seed in range(5)))
    assert run("--part", "2/2") == 0
    assert [row["seed"] for row in results(folder)] == [1, 3]
    assert run("--part", "1/2") == 0
    assert sorted(row["seed"] for row in results(folder)) == list(range(5))


def test_a_picture_too_large_for_the_model_is_noted(folder, run):
    Image.new("RGB", (200, 100)).save(folder / "large.png")
    write_list(folder, ROW | {"scene": "large.png"}, ROW)
    assert run() == 0
    first, second = results(folder)
    assert "--crop edits the part around the mask" in first["notes"][0] and not second["notes"]
    assert run("--crop") == 0
    assert pixels(folder / "out" / "000001_large.png").shape == (100, 200, 3)


# Bad input


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([], "edits.jsonl is empty"),
        ([ROW | {"task": "ask"}], "choose one of edit, segment"),
        ([ROW | {"seed": -1}], "line 1: seed is -1; it must be in 0"),
        ([ROW | {"out": "../a.png"}], "out is '../a.png'; give the name of a picture, no path"),
        ([ROW | {"out": RESULTS}], "give the name of a picture"),
        ([ROW | {"out": "a.png"}, ROW | {"out": "a.png"}], "line 2: .*line 1 writes a.png too"),
        ([ROW | {"out": "a.png"}, ROW | {"out": "A.png"}], "line 2: .*line 1 writes a.png too"),
        ([ROW, ROW | {"instruction": "\ud83d"}], "line 2: instruction is no valid Unicode"),
        ([ROW, ROW | {"scene": "a\0.png"}], "line 2: no file can be called '.*a.x00.png'"),
        ([ROW, ROW | {"out": "\ud83d.png"}], "line 2: out is no valid Unicode"),
    ],
)
def test_a_list_that_cannot_be_edited_is_refused(rows, complaint, folder):
    with pytest.raises(FlexEditError, match=complaint):
        read_jobs(write_list(folder, *rows), folder / "out")


@pytest.mark.parametrize(
    "out",
    ["..", "a.txt", "a", ".png", "a\0.png", "x" * 300 + ".png", "C:a.png", "a\\b.png", "nul.png"],
)
def test_a_name_that_some_system_cannot_write_is_refused_with_its_line(out, folder, run, capsys):
    write_list(folder, ROW | {"out": "good.png"}, ROW | {"out": out})
    assert run() == 2
    assert "line 2: out is " in capsys.readouterr().err
    assert not (folder / "out").exists()


OUTSIDE = (
    "a.png",
    "pictures/../a.png",
    "pictures_too/a.png",
    "/etc/passwd",
    "pictures/link/a.png",
    "C:pictures/a.png",
    r"\\x\y\a.png",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_strangers_list_reads_nothing_outside_of_the_folder_named(name, folder, run, capsys):
    for inside in (pictures := folder / "pictures", folder / "pictures_too"):
        inside.mkdir()
        shutil.copy(folder / "a.png", inside)
    (pictures / "link").symlink_to(folder)
    (pictures / "near.png").symlink_to(pictures / "a.png")
    names = ("pictures/near.png", str(pictures / "a.png"))
    good = [{"scene": each, "instruction": "go"} for each in names]
    for picture in ("scene", "mask", "subject"):
        file = write_list(folder, *good, good[0] | {picture: name})
        assert run("--inputs-within", pictures) == 2
        assert f"line 3: {name!r} leads out of {pictures}" in capsys.readouterr().err
        assert len(read_jobs(file, folder / "out")) == 3  # nobody asked
    assert not (folder / "out").exists()
    assert len(read_jobs(write_list(folder, *good), folder / "out", pictures)) == 2


def test_what_the_list_reads_is_not_overwritten_through_links_either(folder, run, capsys):
    write_list(folder, ROW | {"out": "b.png"}, ROW | {"scene": "b.png", "out": "c.png"})
    (folder / "out").symlink_to(folder)
    before = (folder / "b.png").read_bytes()
    assert run() == 2
    said = capsys.readouterr().err
    assert "line 1: out is 'b.png', which would overwrite" in said and "line 2 reads that" in said
    assert (folder / "b.png").read_bytes() == before and not (folder / RESULTS).exists()


def test_changed_files_and_broken_results_are_made_anew(folder, run, capsys):
    def done() -> str:
        assert run() == 0
        return capsys.readouterr().out.split("\n")[1]

    write_list(folder, ROW, ROW | {"scene": "b.png", "mask": None})
    assert done() == "done: 2" and done() == "done: 0"
    shutil.copy(folder / "a.png", folder / "b.png")
    assert done() == "done: 1"
    result = folder / "out" / "000001_a.png"
    for content in (b"", result.read_bytes()[:-9]):
        result.write_bytes(content)
        assert done() == "done: 1" and done() == "done: 0"


@pytest.mark.parametrize(
    "line",
    [
        {"run": 5},
        {"run": {"part": [1], "edits": 2}},
        {"out": "a", "at": "noon"},
        {"out": "a", "server": ["b"]},
        {"out": "a", "made": ["a"]},
        {"out": "a", "made": {"../a": 1}},
        {"out": "a", "made": {"/a": 1}},
    ],
)
def test_a_line_that_is_not_the_journals_counts_as_none(line, tmp_path):
    (tmp_path / RESULTS).write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert Journal(tmp_path).rows() == {} and Journal(tmp_path).summary()["edits"] == 0


def test_the_rate_counts_from_the_start_of_the_run_that_made_the_latest_edits(tmp_path):
    journal = Journal(tmp_path)
    run = {"run": {"edits": 9, "part": [1, 1]}}
    done = {"server": "a", "settings": {}}
    old = [{**done, "out": f"{n}.png", "at": at} for n, at in enumerate((10.0, 20.0, 40.0))]
    journal.ledger.add(old)  # of a journal that does not say when its run began
    assert journal.summary()["per_minute"] == 4
    new = [{**done, "out": f"new_{n}.png", "at": at} for n, at in enumerate((1023.5, 1024.0))]
    journal.ledger.add([{**run, "at": 1000.0}, *new])
    assert journal.summary()["per_minute"] == 5  # two edits in 24 seconds
    journal.ledger.add([{**run, "at": 9000.0}])  # which has not made any yet
    assert journal.summary()["per_minute"] == 5
    later = [{**done, "out": f"{n}.jpg", "at": 9000.0 + n + 1} for n in range(200)]
    journal.ledger.add(later[:1])
    assert journal.summary()["per_minute"] == 60
    journal.ledger.add(later[1:])
    assert journal.summary()["per_minute"] == 60


def test_results_of_before_files_were_looked_at_still_count(folder, run, capsys):
    write_list(folder, ROW)
    assert run() == 0
    rows = [{**row} for row in results(folder)]
    for row in rows:
        del row["contents"], row["made"], row["at"]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "out" / RESULTS).write_text(text, encoding="utf-8")
    assert run() == 0 and "before: 1" in capsys.readouterr().out


def test_a_result_whose_line_was_written_gets_its_name_after_a_kill(folder, run, capsys):
    write_list(folder, ROW)
    assert run() == 0
    partial = folder / "out" / PARTIAL / "000001_a.png"
    partial.parent.mkdir()
    (folder / "out" / "000001_a.png").rename(partial)
    assert run() == 0 and "before: 1" in capsys.readouterr().out
    assert (folder / "out" / "000001_a.png").is_file() and not partial.parent.exists()


def test_two_batches_into_one_folder_do_nothing_twice(folder, run, capsys):
    write_list(folder, ROW, ROW | {"seed": 1})
    with Journal(folder / "out").claimed((1, 2)):
        assert run() == 2
        assert "Another process works in" in capsys.readouterr().err
        assert run("--part", "1/2") == 2 and run("--part", "2/2") == 0
    assert run() == 0 and len(results(folder)) == 2


def test_a_look_at_a_batch_waits_while_another_begins(folder):
    with Journal(folder / "out").claimed((1, 2)):
        with FileLock(folder / "out" / ".claim.lock"):  # as a run does while it begins
            look = ThreadPoolExecutor(1).submit(Journal(folder / "out").summary)
            with pytest.raises(TimeoutError):
                look.result(0.2)
        assert look.result(60)["working"] == ["1/2"]
    assert Journal(folder / "out").summary()["working"] == []


def test_a_look_that_may_not_lock_says_all_else(folder):
    journal = Journal(folder / "out")
    with journal.claimed((1, 1)):
        journal.add({"run": {"edits": 3, "part": [1, 1]}})
    (folder / "out" / ".claim.lock").unlink(missing_ok=True)
    (folder / "out" / ".claim.lock").mkdir()
    summary = journal.summary()
    assert summary["working"] is None and summary["edits"] == 3


def test_ray_makes_what_a_plain_run_makes_though_a_worker_is_killed(folder, run, tiny):
    write_list(folder, *(ROW | {"seed": seed} for seed in range(5)), ROW | {"scene": "none.png"})
    assert run() == 2
    plain = {path.name: pixels(path) for path in (folder / "out").glob("*.png")}
    shutil.rmtree(folder / "out")
    common = ("--list", folder / "edits.jsonl", "--model", tiny, "--device", "cpu", "--steps", 2)
    ray = ("--engine", "ray", "--workers", 1, "--out", folder / "out")
    command = [sys.executable, "-m", "flexedit", "batch", *common, *ray]
    with subprocess.Popen([str(word) for word in command], cwd=PACK) as batch:
        ledger = folder / "out" / RESULTS
        while not (ledger.is_file() and results(folder)) and batch.poll() is None:
            time.sleep(0.02)
        processes = psutil.Process(batch.pid).children(recursive=True)
        (worker,) = (it for it in processes if "MapWorker" in " ".join(it.cmdline()))
        worker.kill()
    assert batch.returncode == 2
    assert sorted(row["out"] for row in results(folder)) == [*sorted(plain), "000006_none.png"]
    assert [row["out"] for row in results(folder) if "error" in row] == ["000006_none.png"]
    for name, picture in plain.items():
        assert np.array_equal(pixels(folder / "out" / name), picture)


def test_a_model_that_rays_workers_cannot_load_is_told_in_one_line(folder, tiny):
    shutil.copytree(tiny, folder / "model")
    (folder / "model" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    common = ("--list", write_list(folder, ROW), "--model", folder / "model", "--device", "cpu")
    words = ("batch", *common, "--engine", "ray", "--workers", 1, "--out", folder / "out")
    command = [sys.executable, "-m", "flexedit", *map(str, words)]
    batch = subprocess.run(command, cwd=PACK, capture_output=True, text=True, check=False)
    assert batch.returncode == 2
    assert "vae cannot be loaded" in batch.stderr and "Traceback" not in batch.stderr


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b"])
def test_a_part_that_is_none_is_refused(part, run, capsys):
    assert run("--part", part) == 2
    assert "Invalid value for '--part'" in capsys.readouterr().err
