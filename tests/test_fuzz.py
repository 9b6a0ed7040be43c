"""What people and programs hand us, spoilt: it is read, or one sentence says why not."""

from __future__ import annotations

import io
import json
import random
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from flexedit.benchmark.naming import from_yaml
from flexedit.cli import main
from flexedit.data.readers.annotations import runs_mask
from flexedit.data.record import Record
from flexedit.errors import FlexEditError
from flexedit.files import color_profile, picture_size, read_mask_file, read_picture, read_records
from flexedit.masks.strokes import TOOLS, parse, rasterise
from flexedit.model_folder.upgrade import system_config
from flexedit.training.recipe import MiniRecipe, read_recipe

numbers = st.one_of(st.integers(), st.floats(), st.integers(-2, 200), st.booleans())
texts = st.one_of(st.text(max_size=20), st.sampled_from(("\ud800", "\x00", "../../etc", "C:\\x")))
plain = st.recursive(
    st.one_of(numbers, texts, st.none()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
strokes = st.fixed_dictionaries(
    {"tool": st.sampled_from(TOOLS) | texts, "points": st.lists(st.lists(numbers, max_size=3))},
    optional={"open": plain, "width": numbers, "rotation": numbers, "more": plain},
)
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n"
    for old, new in zip("abcdefghijklmnopqrstu", "bcdefghijklmnopqrstuv", strict=True)
)

several = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def survives(read: Callable[[], object]) -> None:
    try:
        read()
    except FlexEditError as error:
        assert 0 < len(str(error)) < 1500


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 4), np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    (image if kind in ("PNG", "WEBP", "TIFF") else image.convert("RGB")).save(
        file, kind, exif=exif, icc_profile=b"\0" * 200
    )
    return file.getvalue()


PICTURES = {kind: picture(kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PICTURES)
def test_spoilt_pictures(kind, tmp_path):
    dice, file = random.Random(0), tmp_path / "spoilt"
    for number in range(150):
        content = bytearray(PICTURES[kind])
        for _ in range(dice.randint(1, 12)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        if number % 3 == 0:
            del content[dice.randrange(len(content)) :]
        file.write_bytes(content)
        for read in (read_picture, read_mask_file, picture_size, color_profile):
            survives(partial(read, file))


def test_a_picture_that_unpacks_to_more_than_memory_holds(tmp_path):
    file = tmp_path / "bomb.png"
    Image.new("1", (30_000, 30_000)).save(file)  # 110 kB, 3.6 GB as RGBA
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (read_picture, read_mask_file, picture_size):
            with pytest.raises(FlexEditError, match="decompression bomb"):
                read(file)


def test_a_bomb_of_text_in_a_picture(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("a", "x" * 70_000_000, zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    survives(lambda: read_picture(tmp_path / "a.png"))


@several
@given(st.one_of(plain, st.builds(lambda them: {"version": 1, "strokes": them}, st.lists(strokes))))
def test_spoilt_strokes(drawing):
    survives(lambda: rasterise(parse(json.dumps(drawing)), 20, 30))


@several
@given(st.text())
def test_strokes_that_are_no_json(text):
    survives(lambda: parse(text))


@several
@given(st.lists(st.one_of(st.text(), plain.map(json.dumps)), max_size=4))
def test_spoilt_lists(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp("list") / "list.jsonl"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    survives(lambda: read_records(Record, file))


@settings(several, max_examples=20)
@given(
    st.fixed_dictionaries(
        {"scene": texts | plain, "instruction": texts | plain},
        optional={"mask": plain, "seed": plain, "out": texts, "task": texts, "subject": plain},
    )
)
def test_lists_of_odd_edits(tmp_path_factory, job):
    folder = tmp_path_factory.mktemp("batch")
    (folder / "list.jsonl").write_text(json.dumps(job))
    words = ["batch", "--list", folder / "list.jsonl", "--out", folder / "out", "--steps", "1"]
    assert main([str(word) for word in words]) == 2  # no scene of these is a picture
    assert not list(folder.glob("*.png"))


@several
@given(plain)
def test_spoilt_configs(content):
    survives(lambda: system_config(json.dumps(content)))


@pytest.mark.parametrize("read", [from_yaml, lambda file: read_recipe(MiniRecipe, Path(file))])
@pytest.mark.parametrize(
    "text",
    [LAUGHS, "[" * 1500, "a: 2001-99-99", "\ufeffkind: [", "a: !!python/name:os.system", "\x00"],
)
def test_spoilt_yaml(read, text, tmp_path):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(FlexEditError):
        read(str(tmp_path / "a.yaml"))


@several
@given(plain | st.text(st.characters(min_codepoint=40, max_codepoint=120)))
def test_spoilt_run_lengths(counts):
    survives(lambda: runs_mask(counts, (6, 7), "annotation 1"))


@several
@given(
    st.lists(
        st.tuples(st.sampled_from(("--x", "--size", "--seed", "--stroke", "--rotation")), numbers),
        max_size=3,
    )
)
def test_odd_numbers_on_the_command_line(tmp_path_factory, options):
    out = tmp_path_factory.mktemp("mask") / "mask.png"
    words: list[Any] = ["mask", "circle", "--out", out, "--size", "30", "20"]
    for name, number in options:
        words += [name, number] if name != "--size" else [name, number, 8]
    few = [word for word in words if not isinstance(word, int) or abs(word) < 500]
    code = main([str(word) for word in few])
    assert code in (0, 2) and out.exists() == (code == 0)
