"""Edits on servers that die, forget and lie."""

import asyncio
import copy
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexedit.cli import main
from flexedit.farm import run as farm
from flexedit.farm.client import Client
from flexedit.farm.graph import Graph, read_graph_jobs
from flexedit.jobs import RESULTS, Journal
from tests.farm.servers import GRAPH, Fake, png
from tools.comfyui.fetch import PACK

EDITS = 12


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(farm, "REST", 0.02)
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH), encoding="utf-8")
    (tmp_path / "a.png").write_bytes(png(0))
    write_list(tmp_path)
    return tmp_path


def write_list(folder: Path, edits: int = EDITS) -> None:
    rows = ({"scene": "a.png", "instruction": "go", "seed": seed} for seed in range(edits))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "edits.jsonl").write_text(text, encoding="utf-8")


def run(
    folder: Path, *fakes: Fake, urls: Callable[[], Sequence[str] | None] | None = None, **how: Any
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """→ counts and events"""
    graph = Graph.read(folder / "graph.json")
    jobs = read_graph_jobs(folder / "edits.jsonl", folder / "out", graph)
    events: list[dict[str, Any]] = []
    tell = lambda event, **what: events.append({"event": event, **what})  # noqa: E731
    batch = farm.FarmRun(graph, jobs, folder / "out", tell, **how)
    once = iter([[fake.url for fake in fakes]])
    return asyncio.run(batch.run(Client, urls or (lambda: next(once, None)))), events


def check_pictures(folder: Path, seeds: range = range(EDITS)) -> None:
    """Every edit's own picture is there under its name, and nothing else."""
    out = folder / "out"
    assert sorted(path.name for path in out.glob("*.png")) == [
        f"{seed + 1:06d}_a.png" for seed in seeds
    ]
    for seed in seeds:
        assert np.asarray(Image.open(out / f"{seed + 1:06d}_a.png"))[0, 0, 0] == seed


def test_two_servers_share_a_list_and_do_nothing_twice(folder):
    with Fake() as one, Fake(seconds=0.1) as slow:
        counts, _ = run(folder, one, slow)
        assert counts == {"done": EDITS, "failed": 0, "before": 0, "left": 0}
        assert one.made + slow.made == Counter(range(EDITS))
        assert one.made.total() > slow.made.total() > 0
        assert one.uploads.total() == slow.uploads.total() == 1
        check_pictures(folder)
        assert (folder / "out" / "000002_a" / "Edit_1.png").read_bytes() == png(0)
        rows = Journal(folder / "out").rows().values()
        assert all(row[-1]["texts"] == {"Edit": ["a duck"]} for row in rows)
        counts, _ = run(folder, one, slow)
        assert counts == {"done": 0, "failed": 0, "before": EDITS, "left": 0}
        (folder / "out" / "000003_a.png").write_bytes(b"")  # cut off: made again
        counts, _ = run(folder, one, slow)
        assert counts["done"] == 1 and (one.made + slow.made)[2] == 2
        (folder / "a.png").write_bytes(png(9))  # another scene: all are
        counts, _ = run(folder, one, slow)
        assert counts["done"] == EDITS


def test_a_list_that_goes_back_to_what_it_was_makes_its_pictures_again(folder):
    with Fake() as only:
        for seeds in (range(2), range(50, 52), range(2)):
            rows = ({"scene": "a.png", "seed": seed, "out": f"{seed % 50}.png"} for seed in seeds)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "edits.jsonl").write_text(text, encoding="utf-8")
            assert run(folder, only)[0]["done"] == 2
            pictures = (Image.open(folder / "out" / f"{number}.png") for number in range(2))
            assert [np.asarray(picture)[0, 0, 0] for picture in pictures] == list(seeds)


@pytest.mark.parametrize("mood", ["empty", "cut", "forget", "nonsense", "fail", "refuse", "hang"])
def test_what_one_server_does_wrong_another_makes_good(mood, folder):
    with Fake(lambda _: mood) as bad, Fake(seconds=0.03) as good:
        counts, _ = run(folder, bad, good, seconds=2.0)
        assert counts["done"] == EDITS and good.made == Counter(range(EDITS))
        check_pictures(folder)


def test_an_edit_that_kills_two_servers_is_set_aside_by_name(folder):
    def mood(given: dict[str, Any]) -> str:
        return "die" if given["seed"] == 5 else "well"

    with Fake(mood) as one, Fake(mood) as two:
        revived = Reviver(one, two)
        counts, events = run(folder, one, two)
        assert counts == {"done": EDITS - 1, "failed": 1, "before": 0, "left": 0}
        (failed,) = (event for event in events if event["event"] == "failed")
        assert failed["out"] == "000006_a.png" and failed["aside"]
        assert one.url in failed["why"] and two.url in failed["why"]
        assert one.deaths == two.deaths == 1
        assert Journal(folder / "out").summary()["set_aside"] == ["000006_a.png"]
        counts, _ = run(folder, one, two)  # which kills no more
        assert counts["failed"] == 1 and one.deaths == two.deaths == 1
        one.mood = two.mood = lambda _: "well"
        counts, _ = run(folder, one, two, again=True)
        assert counts == {"done": 1, "failed": 0, "before": EDITS - 1, "left": 0}
        revived.stop()
        check_pictures(folder)


class Reviver:
    """Starts servers again that died."""

    def __init__(self, *fakes: Fake) -> None:
        self.fakes, self.stopped = fakes, False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.stopped:
            for fake in self.fakes:
                if not fake.alive and not self.stopped:
                    time.sleep(0.1)  # until it is quite dead
                    fake.start()
            time.sleep(0.02)

    def stop(self) -> None:
        self.stopped = True
        self.thread.join()


def test_a_node_that_says_no_fails_its_edit_alone_with_its_words(folder):
    def mood(given: dict[str, Any]) -> str:
        return "fail" if given["seed"] == 3 else "well"

    with Fake(mood) as only:
        counts, events = run(folder, only)
        assert counts == {"done": EDITS - 1, "failed": 1, "before": 0, "left": 0}
        (failed,) = (event for event in events if event["event"] == "failed")
        assert failed["why"] == "Edit: The mask is empty." and not failed["aside"]
        only.mood = lambda _: "well"
        assert run(folder, only)[0]["done"] == 1  # tried again


def test_a_result_without_an_ending_stands_beside_the_folder_of_the_others(folder):
    write_list(folder, 1)
    with Fake() as only:
        only.ending = ""
        assert run(folder, only)[0]["done"] == 1
    assert (folder / "out" / "000001_a.bin").read_bytes() == png(0)
    assert (folder / "out" / "000001_a" / "Edit_1.png").is_file()


def test_a_missing_file_fails_its_edit_alone(folder):
    with (folder / "edits.jsonl").open("a") as file:
        file.write('{"scene": "none.png", "instruction": "go", "seed": 99}\n')
    with Fake() as only:
        counts, events = run(folder, only)
    assert counts == {"done": EDITS, "failed": 1, "before": 0, "left": 0}
    assert "none.png cannot be read" in next(e for e in events if e["event"] == "failed")["why"]


def test_a_server_that_leaves_and_comes_back_starts_anew(folder, monkeypatch):
    monkeypatch.setattr(farm, "WATCH", 0.02)
    with Fake() as one, Fake() as two:
        one.held = two.held = True
        both = [one.url, two.url]

        def lists() -> Iterator[list[str] | None]:
            yield both
            while len(one.queue) + len(two.queue) < 4:
                yield None
            yield [two.url]
            yield both
            one.held = two.held = False
            while True:
                yield None

        counts, events = run(folder, urls=lists().__next__)
        told = (event for event in events if event.get("server") == one.url)
        states = [event["state"] for event in told if event["event"] == "server"]
        assert states == ["ready", "gone", "ready"]
        assert counts["done"] == EDITS and one.made + two.made == Counter(range(EDITS))


def test_a_run_ends_when_no_server_answers_any_more(folder):
    with Fake() as only:
        only.stop()
        counts, events = run(folder, only, wait=0.3)
    assert counts == {"done": 0, "failed": 0, "before": 0, "left": EDITS}
    assert "given up" in [event["event"] for event in events]


# From the shell


def command(folder: Path, *words: object) -> list[str]:
    common = ("--list", folder / "edits.jsonl", "--graph", folder / "graph.json")
    return [str(word) for word in ("batch", *common, "--out", folder / "out", *words)]


def start(folder: Path, *words: object) -> subprocess.Popen:
    arguments = [sys.executable, "-m", "flexedit", *command(folder, *words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(arguments, cwd=PACK, text=True, **pipes)


def test_a_run_that_is_killed_again_and_again_loses_and_repeats_nothing(folder):
    write_list(folder, 40)
    with Fake(seconds=0.05) as only:
        for edits in (1, 8, 20, 30):
            batch = start(folder, "--server", only.url, "--json")
            done = iter(line for line in batch.stdout if json.loads(line)["event"] == "done")
            while only.made.total() < edits:
                next(done)
            batch.send_signal(signal.SIGKILL)
            batch.communicate()
        batch = start(folder, "--server", only.url, "--json")
        events = [json.loads(line) for line in batch.communicate(timeout=100)[0].splitlines()]
        assert batch.returncode == 0
        assert events[-1]["event"] == "end" and events[-1]["left"] == 0
        assert only.made == Counter(range(40))  # none twice, none redone
    check_pictures(folder, range(40))
    rows = Journal(folder / "out").rows()
    assert all(sum("made" in row for row in rows[out]) == 1 for out in rows) and len(rows) == 40
    assert not (folder / "out" / ".partial").exists()


@pytest.mark.parametrize("others", [0, 1])
def test_a_run_that_is_stopped_says_how_to_go_on_and_nothing_else(others, folder):
    with Fake() as only, Fake() as other:
        only.held = other.held = True
        more = ("--server", other.url) * others  # by actors of Ray's
        batch = start(folder, "--server", only.url, *more, "--json")
        while not all(fake.queue for fake in (only, other)[: 1 + others]):
            assert batch.poll() is None
            time.sleep(0.02)
        batch.send_signal(signal.SIGINT)
        told, said = batch.communicate(timeout=100)
        assert batch.returncode == 130
        assert all(line.startswith("{") for line in told.splitlines())
        assert said == "flexedit: Stopped. Run the same again to go on.\n"
        other.stop()
        only.held = False
        assert start(folder, "--server", only.url).wait(timeout=100) == 0
        assert only.made == Counter(range(EDITS))


def test_a_second_run_into_one_folder_is_refused_unless_their_parts_differ(folder):
    with Fake() as only:
        only.held = True
        first = start(folder, "--server", only.url, "--part", "1/2", "--json")
        assert json.loads(first.stdout.readline())["event"] == "begin"
        for part in ("1/1", "1/2", "3/4"):
            second = start(folder, "--server", only.url, "--part", part)
            _, said = second.communicate(timeout=100)
            assert second.returncode == 2
            assert f"Another process works in {folder / 'out'}, at part 1/2" in said
        only.held = False
        other = start(folder, "--server", only.url, "--part", "2/2")
        assert other.wait(timeout=100) == 0 and first.wait(timeout=100) == 0
        first.communicate(), other.communicate()
        assert only.made == Counter(range(EDITS))
    check_pictures(folder)


def test_exit_codes_events_and_status(folder, capsys):
    def mood(given: dict[str, Any]) -> str:
        return "fail" if given["seed"] == 3 else "well"

    with Fake(mood) as only:
        assert main(command(folder, "--server", only.url, "--json")) == 3
        said = capsys.readouterr()
        events = [json.loads(line) for line in said.out.splitlines()]
        assert {event["event"] for event in events} == {
            *("begin", "server", "sent", "done", "failed", "end")
        }
        last = [event for event in events if event["event"] == "done"][-1]["so_far"]
        assert last["per_minute"] > 0 and last["done"] + last["failed"] + last["left"] == EDITS
        assert "1 of 12 edits failed and 0 are left" in said.err and RESULTS in said.err
        assert main(["status", str(folder / "out"), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["edits"], report["done"], report["failed"]) == (EDITS, EDITS - 1, 1)
        assert report["by_server"] == {only.url: EDITS - 1} and report["working"] == []
        only.mood = lambda _: "well"
        assert main(command(folder, "--server", only.url)) == 0
    assert main(["status", str(folder)]) == 2
    assert "no batch wrote results there" in capsys.readouterr().err


def test_a_dry_run_finds_what_is_wrong_and_makes_nothing(folder, capsys):
    with Fake() as one, Fake() as two:
        servers = ("--server", one.url, "--dry-run", "--json")
        assert main(command(folder, *servers)) == 0
        report = json.loads(capsys.readouterr().out)
        assert report == {"edits": EDITS, "servers": {one.url: "0.0.0"}, "problems": []}
        one.nodes["Edit"] = copy.deepcopy(one.nodes["Edit"])
        one.nodes["Edit"]["input"]["required"]["seed"] = ["INT", {"max": EDITS - 2}]
        assert main(command(folder, *servers)) == 2
        said = f"{one.url} would not take 1 values, the first is 000012_a.png: Edit.seed is 11; it"
        assert said in capsys.readouterr().err
        one.nodes["Edit"] = two.nodes["Edit"]
        with (folder / "edits.jsonl").open("a") as file:
            file.write('{"scene": "none.png", "instruction": "go", "seed": 99}\n')
        assert main(command(folder, *servers)) == 2
        assert "1 files are missing, the first is" in capsys.readouterr().err
        del one.nodes["Edit"]
        assert main(command(folder, *servers)) == 2
        assert f"{one.url}: it has no node Edit" in capsys.readouterr().err
        assert one.made.total() == 0 and not (folder / "out").exists()
        one.stop()
        assert main(command(folder, *servers)) == 2
        assert f"No server answers. {one.url}: " in capsys.readouterr().err
        write_list(folder)
        assert main(command(folder, *servers, "--server", two.url)) == 2
        assert f"{one.url} does not answer (" in capsys.readouterr().err
        assert two.made.total() == 0


def test_a_list_that_leads_out_of_the_folder_named_sends_nothing(folder, capsys):
    (folder / "pictures").mkdir()
    with Fake() as only:
        words = ("--server", only.url, "--inputs-within", str(folder / "pictures"))
        assert main(command(folder, *words)) == 2
        assert "line 1: 'a.png' leads out of" in capsys.readouterr().err
        assert not only.uploads and not (folder / "out").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--server", "localhost"], "'localhost' is no server; servers are written like http://"),
        (["--server", "http://a:1", "--steps", "3"], "--steps has no place in a batch on servers"),
        (["--in-flight", "3"], "--graph has no place in a batch without --server"),
        (["--servers", "none.txt"], "none.txt cannot be read"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words, complaint, folder, capsys):
    assert main(command(folder, *words)) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_several_servers_without_ray_are_told_what_is_missing(folder, monkeypatch, capsys):
    from flexedit.benchmark import extra

    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "ray" else name)
    assert main(command(folder, "--server", "http://a:1", "--server", "http://b:1")) == 2
    said = "A batch on several servers (the extra farm) needs packages that are missing here: pip"
    assert f"{said} install ray" in capsys.readouterr().err


def test_a_file_of_servers_is_read_again_while_the_run_goes_on(folder):
    write_list(folder, 60)
    with Fake(seconds=0.1) as one, Fake(seconds=0.1) as two:
        servers = folder / "servers.txt"
        servers.write_text(f"# ours\n{one.url}\n", encoding="utf-8")
        batch = start(folder, "--servers", servers, "--json")
        events = []
        for line in batch.stdout:
            events.append(json.loads(line))
            if one.made.total() >= 5 and two.url not in servers.read_text(encoding="utf-8"):
                servers.write_text(f"{one.url}\n{two.url}\n", encoding="utf-8")
            if two.made.total() >= 5 and one.url in servers.read_text(encoding="utf-8"):
                servers.write_text(f"{two.url}\n", encoding="utf-8")
                left = one.made.total()
        _, said = batch.communicate(timeout=200)
        assert batch.returncode == 0, said
        assert events[-1]["done"] == 60
        assert one.made + two.made == Counter(range(60))
        assert one.made.total() <= left + 4 + 20  # it had a few, and the file is read in a while
    check_pictures(folder, range(60))
