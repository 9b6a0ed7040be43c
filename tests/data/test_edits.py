import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexedit import prompts
from flexedit.data.edits import INDEX, Edits
from flexedit.data.record import DRAWN
from flexedit.data.sample import Sample
from flexedit.data.world import FULL_MASK, OPERATIONS, World, write
from flexedit.errors import FlexEditError
from flexedit.models.preprocess import CLIP_MEAN

HEIGHT, WIDTH = 40, 100
OBJECT = (slice(12, 28), slice(70, 90))
EDIT = {
    "scene": "scene.png",
    "mask": "mask.png",
    "instruction": "remove it",
    "target": "target.png",
}


def gradient() -> np.ndarray:
    """A picture whose pixels say where they are"""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([2 * x, 6 * y, 0 * x], -1).astype(np.uint8)


def box(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[rows, columns] = 255
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = {
        "scene": gradient(),
        "target": gradient()[..., ::-1],
        "mask": box(slice(15, 20), slice(75, 80)),
        "object": box(*OBJECT),
        "small": box(*OBJECT)[::2, ::2],
        "apart": box(slice(18, 22), slice(0, 3)) | box(slice(18, 22), slice(95, 100)),
        "turned": box(*OBJECT).T,
        "empty": box(slice(0), slice(0)),
        "subject": np.full((10, 30, 3), 200, np.uint8),
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def edits(folder) -> Callable[..., Edits]:
    def index(*rows: dict[str, Any], size: int = 32, seed: int = 0) -> Edits:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / INDEX).write_text(lines, encoding="utf-8")
        return Edits(folder, size, seed)

    return index


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return one == other


def test_samples_that_were_written_are_read_as_they_were(tmp_path):
    world, count = World(64, seed=3, operations=OPERATIONS | {"ask": 1.0}), 40
    write(world, range(count), tmp_path)
    edits = Edits(tmp_path, 64)
    assert len(edits.rows) == count
    read = [edits[index] for index in range(count)]
    names = [row.content.scene for row in edits.rows]
    of = {edits.reader._picture(name).tobytes(): index for index, name in enumerate(names)}
    order = [of[sample.scene.tobytes()] for sample in read]
    assert sorted(order) == list(range(count)) != order  # all of them, in another order
    told = ("scene", "mask", "kind", "task", "operation", "instruction", "caption", "reply")
    shown = ("label", "subject", "target", "object_mask")
    for index, sample in zip(order, read, strict=True):
        assert all(
            same(getattr(sample, part), getattr(world[index], part)) for part in told + shown
        )
        region = world[index].region
        assert same(sample.region, region)
    assert {sample.task for sample in read} == {"edit", "segment", "ask"}
    assert not all(sample.object_mask.any() for sample in read)  # some ask what is at no object


def test_every_turn_has_every_row_once_in_an_order_of_its_own(edits):
    rows = [EDIT | {"instruction": str(number)} for number in range(20)]
    own = edits(*rows)
    turns = [[own[20 * turn + place].instruction for place in range(20)] for turn in range(3)]
    assert all(sorted(turn, key=int) == [row["instruction"] for row in rows] for turn in turns)
    assert len(set(map(tuple, turns))) == 3
    again, other = edits(*rows), edits(*rows, seed=1)
    assert [again[place].instruction for place in range(20)] == turns[0]
    assert [other[place].instruction for place in range(20)] != turns[0]


def test_a_square_is_cut_around_the_mask_alike_from_all_pictures(edits):
    own, lefts = edits(EDIT | {"object_mask": "object.png", "region": "object.png"}, size=40), set()
    for index in range(30):
        sample = own[index]
        left = int(sample.scene[0, 0, 0]) // 2
        lefts.add(left)
        window = (slice(None), slice(left, left + 40))
        assert np.array_equal(sample.scene, gradient()[window])
        assert np.array_equal(sample.target, gradient()[..., ::-1][window])
        assert np.array_equal(sample.mask, box(slice(15, 20), slice(75, 80))[window] > 0)
        assert np.array_equal(sample.object_mask, box(*OBJECT)[window] > 0)
        assert np.array_equal(sample.region, sample.object_mask)
    assert min(lefts) >= 40 and max(lefts) <= 60 and len(lefts) > 8


def test_a_mask_longer_than_the_square_is_partly_in_it(edits):
    own = edits(EDIT | {"mask": "apart.png"}, size=40)
    inside = [own[index].mask for index in range(40)]
    assert all(mask.any() for mask in inside)
    assert len({int(mask.sum()) for mask in inside}) == 2  # now one end of it, now the other


def test_pictures_are_brought_to_the_size(edits):
    sample = edits(EDIT | {"object_mask": "object.png"}, size=20)[0]
    assert sample.scene.shape == sample.target.shape == (20, 20, 3)
    assert sample.object_mask.sum() in (8 * 10, 8 * 11)  # by where the square begins
    assert sample.object_mask.dtype == bool
    assert sample.mask.dtype == np.float32 and 0 < sample.mask.sum() < 5 * 5  # soft, as in use
    assert sample.mask.sum() == pytest.approx(25 / 4)
    assert sample.kind == DRAWN


def test_a_mask_of_another_size_is_brought_to_the_scenes(edits):
    sample = edits(EDIT | {"object_mask": "small.png"}, size=40)[0]
    left = int(sample.scene[0, 0, 0]) // 2
    assert np.array_equal(sample.object_mask, (box(*OBJECT) > 0)[:, left : left + 40])


def test_a_subject_is_whole_and_padded_as_the_encoders_would(edits):
    sample = edits(EDIT | {"subject": "subject.png"}, size=30)[0]
    assert (sample.subject[10:20] == 200).all()
    assert np.abs(sample.subject[:10] / 255 - CLIP_MEAN).max() < 1 / 255


def test_without_a_mask_scribbles_are_drawn_over_the_object(edits):
    row = {key: value for key, value in EDIT.items() if key != "mask"}
    own = edits(row | {"object_mask": "object.png"}, size=40)
    samples = [own[index] for index in range(60)]
    assert len({sample.kind for sample in samples}) == 10
    for sample in samples:
        covered = (sample.mask & sample.object_mask).sum()
        assert covered > 0
        assert (covered == sample.object_mask.sum()) == (sample.kind == FULL_MASK)
    again = [own[index] for index in range(60)]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(samples, again, strict=True))


def test_an_object_is_painted_where_no_target_says_how_to_segment(edits):
    own = edits({"scene": "scene.png", "task": "segment", "object_mask": "object.png"}, size=40)
    sample = own[0]
    assert sample.instruction == prompts.SEGMENT_INSTRUCTION
    assert (sample.target[sample.object_mask] == sample.target[sample.object_mask][0]).all()
    assert sample.target[sample.object_mask][0].argmax() == 0  # red
    outside = ~sample.object_mask
    assert np.array_equal(sample.target[outside], sample.scene[outside])
    assert np.array_equal(sample.region, sample.object_mask)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"label": "cat"}, ("The masks means 'cat'", "remove it")),
        ({"reply": "It is a cat.", "label": "cat"}, ("It is a cat.", "remove it")),
        ({"caption": "remove the cat"}, (prompts.GENERIC_REPLY, "remove the cat")),
        ({"subject": None}, (prompts.GENERIC_REPLY, "remove it")),
    ],
)
def test_what_a_row_leaves_out_is_filled_in(words, expected, edits):
    sample = edits(EDIT | words)[0]
    assert (sample.reply, sample.caption) == expected


def test_what_segments_is_captioned_by_its_label(edits):
    row = {"scene": "scene.png", "task": "segment", "object_mask": "object.png"}
    named = edits(row | {"label": "cup"})[0]
    assert named.caption == "mark the cup in red" and "cup" not in named.instruction


def test_lines_are_as_other_programs_write_them(folder):
    """With a mark at the beginning, Windows' ends, and characters that only look like ends"""
    row = EDIT | {"caption": "one\u2028line\x85"}
    text = json.dumps(EDIT) + "\r\n\r\n" + json.dumps(row, ensure_ascii=False) + "\r\n"
    (folder / INDEX).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [row.content.caption for row in Edits(folder, 32).rows] == ["", "one\u2028line\x85"]


def test_a_question_needs_no_target(edits):
    row = {"scene": "scene.png", "mask": "mask.png", "task": "ask", "label": "cat"}
    sample = edits(row)[0]
    assert sample.target is None and sample.instruction == prompts.ASK_INSTRUCTION


# Bad input


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scene": None}, "index.jsonl, line 2: missing setting scene"),
        ({"scene": "none.png"}, "none.png"),
        ({"task": "segment", "mask": None}, "line 2: to segment needs a mask or an object_mask"),
        ({"target": None}, "line 2: an edit needs an instruction and a target"),
        ({"instruction": "  "}, "an edit needs an instruction and a target"),
        ({"instruction": 7}, "line 2: instruction is 7; expected str"),
        ({"task": "paint"}, "line 2: task is 'paint'; choose one of edit, segment, ask"),
        ({"task": "ask", "target": None}, "a question needs a reply, or a label"),
        ({"task": "segment", "target": None}, "a target, or an object_mask to paint"),
        (
            {"task": "segment", "target": None, "object_mask": "object.png"},
            "remove the instruction: without a target the object is painted red",
        ),
        ({"captoin": "remove the cat"}, "line 2: unknown setting captoin"),
        ({"target": "subject.png"}, "subject.png has 30×10 pixels, but its scene .* 100×40"),
        ({"mask": "turned.png"}, "turned.png has 40×100 pixels, but its scene .* A mask must lie"),
        ({"region": "turned.png"}, "turned.png has 40×100 pixels"),
        ({"scene": ""}, "line 2: the scene is missing"),
        ({"task": "ask", "label": "cat"}, "a question has no target"),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_named(changes, complaint, edits):
    with pytest.raises(FlexEditError, match=complaint):
        edits(EDIT, EDIT | changes)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"\n", "is empty"),
        (b"{'scene': 1}\n", "line 1: this is not valid JSON"),
        (b"[1]\n", "expected an object, found .1."),
    ],
)
def test_an_index_that_is_none_is_refused(text, complaint, folder):
    if text is not None:
        (folder / INDEX).write_bytes(text)
    with pytest.raises(FlexEditError, match=complaint):
        Edits(folder, 32)


def test_a_file_that_is_no_picture_is_named(folder, edits):
    (folder / "mask.png").write_text("no picture")
    with pytest.raises(FlexEditError, match=r"mask\.png cannot be read as a picture"):
        edits(EDIT)


def test_an_empty_mask_is_named(edits):
    with pytest.raises(FlexEditError, match=r"empty\.png is empty"):
        edits(EDIT | {"mask": "empty.png"})[0]


def test_photographs_lie_as_their_camera_was_held(folder, edits):
    turned = Image.fromarray(np.rot90(gradient()).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    turned.save(folder / "turned.png", exif=exif)
    sample = edits(EDIT | {"scene": "turned.png"}, size=40)[0]
    left = int(sample.scene[0, 0, 0]) // 2
    assert np.array_equal(sample.scene, gradient()[:, left : left + 40])


def test_the_sample_of_an_edit_has_all_that_a_batch_needs(edits):
    from flexedit.training.batch import collate

    own = edits(EDIT, EDIT | {"subject": "subject.png"}, size=32)
    samples: list[Sample] = [own[0], own[1], World(32)[0]]
    batch = collate(samples)
    assert batch.request.mask.shape == batch.region.shape == (3, 32, 32)
    assert set(batch.request.has_subject[:2]) == {True, False}
