"""Batches on real servers; what such servers do not do is in tests/farm."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from flexedit.jobs import Journal
from tests.comfyui.graph import OPAQUE, Graph, free_shape, load, picture, pictures
from tests.following import follow
from tools.comfyui.fetch import PACK
from tools.comfyui.server import ComfyServer

HEIGHT, WIDTH = 24, 40


@pytest.fixture(scope="module")
def second() -> Iterator[ComfyServer]:
    with ComfyServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A graph that inverts a scene where a circle lies, and a scene"""
    graph = Graph()
    scene = graph.add("LoadImage", image="example.png")
    mask = free_shape(graph, image_width=WIDTH, image_height=HEIGHT)
    inverted = graph.add("ImageInvert", image=scene[0])
    edited = graph.add(
        "FlexEditComposite",
        scene=scene[0],
        edited=inverted[0],
        mask=mask,
        color_match=False,
        **OPAQUE,
    )
    graph.save(edited[0])
    graph.save_mask(mask)
    titles = ("Scene", "Where", "Inverted", "Keep the rest", "Save", "Mask as picture", "Mask")
    for node, title in zip(graph.values(), titles, strict=True):
        node["_meta"] = {"title": title}
    (tmp_path / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    picture(HEIGHT, WIDTH).save(tmp_path / "scene.png")
    return tmp_path


def write_list(folder: Path, edits: int) -> None:
    rows = ({"scene": "scene.png", "Where.x": (n + 1) / (edits + 1)} for n in range(edits))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "edits.jsonl").write_text(text, encoding="utf-8")


def batch(folder: Path, servers: Sequence[ComfyServer], *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "flexedit", "batch", "--list", folder / "edits.jsonl"]
    command += ["--graph", folder / "graph.json", "--out", folder / "out", *words]
    for server in servers:
        command += ["--server", f"http://{server.address}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([str(word) for word in command], cwd=PACK, text=True, **pipes)


def check_results(folder: Path, edits: int) -> None:
    """Every edit has its own result with its graph in it, and one line that says so."""
    rows = Journal(folder / "out").rows()
    assert len(rows) == edits
    scene = np.asarray(picture(HEIGHT, WIDTH))
    for number in range(edits):
        name = f"{number + 1:06d}_scene"
        (done,) = (row for row in rows[f"{name}.png"] if "made" in row)
        mask_name = f"{name}/Mask_1.png"
        assert set(done["made"]) == {f"{name}.png", mask_name}
        with Image.open(folder / "out" / f"{name}.png") as edited:
            made_by = json.loads(edited.info["prompt"])
            result = np.asarray(edited.convert("RGB"))
        (circle,) = (n for n in made_by.values() if n["_meta"]["title"] == "Where")
        assert circle["inputs"]["x"] == (number + 1) / (edits + 1)
        mask = np.asarray(Image.open(folder / "out" / mask_name).convert("L")) > 127
        assert mask.any() and not mask.all()
        assert np.array_equal(result[~mask], scene[~mask])
        inverted = 255 - scene[mask].astype(int)
        assert np.abs(result[mask] - inverted).max() <= 1  # SaveImage rounds down


def test_forty_edits_over_two_servers(folder, comfy, second):
    write_list(folder, 40)
    dry = batch(folder, [comfy, second], "--dry-run", "--json")
    said, errors = dry.communicate(timeout=200)
    assert dry.returncode == 0, errors
    assert json.loads(said)["problems"] == [] and not (folder / "out").exists()
    run = batch(folder, [comfy, second], "--json")
    said, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors
    events = [json.loads(line) for line in said.splitlines()]
    assert events[-1] == {
        "event": "end",
        "out": str(folder / "out"),
        **{"done": 40, "failed": 0, "before": 0, "left": 0},
    }
    servers = {event["server"] for event in events if event["event"] == "done"}
    assert servers == {f"http://{server.address}" for server in (comfy, second)}
    check_results(folder, 40)
    for server in (comfy, second):  # uploaded once
        assert len(list((server.folder / "input" / "flexedit").iterdir())) == 1


def test_photos_are_edited_around_their_masks_as_the_plain_run_crops_them(tmp_path, comfy):
    rows = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    Image.fromarray(rows).resize((200, 120)).save(tmp_path / "scene.png")
    mask = np.zeros((120, 200), np.uint8)
    mask[40:75, 120:160] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    row = {"scene": "scene.png", "mask": "mask.png", "instruction": "remove this", "out": "a.png"}
    (tmp_path / "edits.jsonl").write_text(json.dumps(row), encoding="utf-8")
    graph = PACK / "workflows" / "api" / "photos_from_a_list.json"
    on_server = ["--graph", graph, "--server", f"http://{comfy.address}"]
    for name, words in {"plain": ["--crop"], "server": on_server}.items():
        command = [sys.executable, "-m", "flexedit", "batch", "--list", tmp_path / "edits.jsonl"]
        subprocess.run([*command, "--out", tmp_path / name, *words], cwd=PACK, check=True)
    plain, server = (
        np.asarray(Image.open(tmp_path / name / "a.png").convert("RGB")).astype(int)
        for name in ("plain", "server")
    )
    assert (plain != np.asarray(Image.open(tmp_path / "scene.png"))).any()
    unlike = np.abs(plain - server).max(-1) > 2
    assert unlike.mean() < 0.001  # rounding decides which pixels belong to the change


def test_a_node_that_says_no_fails_its_edit_in_its_own_words(folder, comfy):
    write_list(folder, 2)
    with (folder / "edits.jsonl").open("a") as file:
        file.write('{"scene": "scene.png", "Where.x": 0.5, "Where.kind": "drawn"}\n')
        file.write('{"scene": "scene.png", "Where.x": 7}\n')
    run = batch(folder, [comfy])
    _, errors = run.communicate(timeout=200)
    assert run.returncode == 3, errors
    rows = Journal(folder / "out").rows()
    refused = rows["000004_scene.png"][-1]["error"]
    assert refused.startswith("Where: Value 7.0 bigger than max of 1") or "Where" in refused
    assert sum("made" in row[-1] for row in rows.values()) >= 2


def test_the_page_of_batches_works_word_for_word(tmp_path, monkeypatch, comfy, second):
    """With two edits of each list; those of its first commands lie in the present folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PACK))  # for Ray's processes: nothing is installed here
    (tmp_path / "workflows").symlink_to(PACK / "workflows")
    picture(64, 64).save("scene.png")
    edits = [{"scene": "scene.png", "instruction": "remove this", "out": f"{n}.png"} for n in "ab"]
    Path("edits.jsonl").write_text("\n".join(map(json.dumps, edits)))
    exchanged = {
        "--count 20": "--count 2",
        "--workers 4": "--workers 1",
        "http://127.0.0.1:8188": f"http://{comfy.address}",
        "http://127.0.0.1:8189": f"http://{second.address}",
    }
    assert len(follow("docs/batch.md", exchanged)) == 6
    made = Journal(tmp_path / "edited").summary()
    assert (made["done"], made["failed"]) == (4, 0)
    names = ["000001_0000000_scene.png", "000002_0000001_scene.png", "a.png", "b.png"]
    assert sorted(path.name for path in Path("edited").glob("*.png")) == names
    with Image.open("edited/" + names[0]) as edited:
        assert "FlexEditKSampler" in edited.info["prompt"]


@pytest.mark.soak
def test_five_hundred_edits_while_a_server_is_killed_and_restarted_twice(folder, comfy, second):
    write_list(folder, 500)
    run = batch(folder, [comfy, second], "--json")
    done, lost, kills = 0, 0, []
    restarts: list[threading.Thread] = []
    for line in run.stdout:
        event = json.loads(line)
        done += event["event"] == "done"
        lost += event["event"] == "lost"
        ready = all(not thread.is_alive() for thread in restarts)
        if len(kills) < 2 and done >= 100 * (len(kills) + 1) and ready:
            second.kill()
            kills.append(done)
            restarts.append(threading.Thread(target=second.restart))
            restarts[-1].start()
    _, errors = run.communicate(timeout=60)
    for thread in restarts:
        thread.join()
    assert run.returncode == 0, errors
    assert done == 500 and len(kills) == 2 and lost >= 1
    check_results(folder, 500)
    print(f"500 edits, killed after {kills}, {lost} edits lost and made again")


@pytest.mark.soak
def test_fifty_edits_leave_a_server_as_large_as_the_fifth_did(comfy, model):
    sizes = []
    process = psutil.Process(comfy.process.pid)
    for seed in range(50):
        graph = Graph()
        scene = load(graph, comfy, "scene.png", 64, 64, seed=seed)
        saved = graph.save(graph.edit(model, scene[0], free_shape(graph, seed=seed)))
        assert pictures(comfy, comfy.run(graph), saved)
        sizes.append(process.memory_info().rss)
    growth = max(sizes[40:]) / sizes[4] - 1
    print(f"after 5 edits {sizes[4] / 2**20:.0f} MB, after 50 {growth:+.1%}")
    assert growth <= 0.02
