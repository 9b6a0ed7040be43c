"""Every reader of JSON: no nesting ends it, and what some editors add to a file does not either."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flexedit.benchmark import report
from flexedit.benchmark.cases import META, Benchmark
from flexedit.benchmark.judge import FACTS, Judge
from flexedit.benchmark.run import SYSTEM, Run
from flexedit.cli import main
from flexedit.data.edits import Edits
from flexedit.data.record import Record
from flexedit.data.world import World, write
from flexedit.errors import FlexEditError
from flexedit.files import read_json, read_records
from flexedit.masks.strokes import parse
from flexedit.model_folder import CONFIG_FILE, ModelFolder

DEEP = "[" * 100_000
STROKES = {"version": 1, "strokes": [{"tool": "brush", "points": [[0.5, 0.5]]}]}


def model(name: str, part: str = "") -> Callable[[Path, Path], object]:
    """Loads a copy of a model folder, one of whose files is ``name``."""

    def read(file: Path, tiny: Path) -> object:
        path = shutil.copytree(tiny, file.parent / "model")
        shutil.copy(file, path / name)
        folder = ModelFolder(path)
        return getattr(folder, f"load_{part}")() if part else folder.config

    return read


READERS: dict[str, Callable[[Path, Path], object]] = {
    "any": lambda file, _: read_json(file),
    "lines": lambda file, _: read_records(Record, file),
    "index.jsonl": lambda file, _: Edits(file.parent, 64),
    "strokes": lambda file, _: parse(file.read_text(encoding="utf-8")),
    META: lambda file, _: Benchmark(file.parent),
    SYSTEM: lambda file, _: Run(file.parent),
    FACTS: lambda file, _: Judge.load(file.parent),
    "report.json": lambda file, _: report.load(file),
    "flexedit.json": model(CONFIG_FILE),
    "vllm config": model("vllm/config.json", "vllm"),
    "vllm preprocessing": model("vllm/preprocessor_config.json", "vllm"),
    "clip preprocessing": model("clip/preprocessor_config.json", "clip"),
    "vae config": model("vae/config.json", "vae"),
}


@pytest.mark.parametrize("name", READERS)
def test_endless_nesting_is_a_sentence(name, tiny, tmp_path):
    (tmp_path / name).write_text(DEEP)
    with pytest.raises(FlexEditError) as failure:
        READERS[name](tmp_path / name, tiny)
    assert "recursion" in str(failure.value).lower() and len(str(failure.value)) < 1000


@pytest.mark.parametrize("name", ["flexedit.json", "clip preprocessing"])
def test_a_mark_at_the_start_of_a_models_file_is_passed_over(name, tiny, tmp_path):
    files = {"flexedit.json": CONFIG_FILE, "clip preprocessing": "clip/preprocessor_config.json"}
    whole = (tiny / files[name]).read_text().replace("\n", "\r\n")
    (tmp_path / name).write_text(whole, encoding="utf-8-sig", newline="")
    assert READERS[name](tmp_path / name, tiny)


def test_a_mark_at_the_start_of_lists_and_drawings_is_passed_over(tmp_path):
    write(World(64), range(2), tmp_path)
    index = (tmp_path / "index.jsonl").read_text().replace("\n", "\r\n")
    (tmp_path / "index.jsonl").write_text(index, encoding="utf-8-sig", newline="")
    assert Edits(tmp_path, 64)
    drawing = tmp_path / "strokes.json"
    drawing.write_text(json.dumps(STROKES, indent=1), encoding="utf-8-sig", newline="\r\n")
    assert main(["mask", "--strokes", str(drawing), "--out", str(tmp_path / "mask.png")]) == 0
