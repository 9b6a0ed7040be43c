import io
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexedit import masks, prompts
from flexedit.benchmark.build import build
from flexedit.benchmark.sources import ReaderSource
from flexedit.data.edits import Edits
from flexedit.data.readers.magicbrush import MagicBrush, masked, rows_of, understand
from flexedit.errors import FlexEditError
from tests.data.readers.made import HEIGHT, WIDTH, backdrop, contents, png, where, with_box

INSTRUCTIONS = (
    "Remove the red mug.",
    "replace the mug with an apple",
    "please add a mug on the table",
    "make it look like winter",  # no clear operation
)


def magicbrush_row(number: int, mask_form: str = "alpha") -> dict:
    """A row in the data set's schema; what the mask means is always the same box."""
    box = (20, 16, 40, 36)
    empty = backdrop(number)
    full = with_box(empty, box, (220, 40, 40))
    instruction = INSTRUCTIONS[number % 4]
    source, target = (empty, full) if "add" in instruction else (full, empty)
    if "replace" in instruction:
        target = with_box(empty, box, (40, 220, 40))
    mask = np.dstack([source, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    if mask_form == "alpha":
        mask[where(box)] = 0
    elif mask_form == "white":
        mask = with_box(source, box, 255)
    elif mask_form == "black":
        mask = with_box(source, box, 0)
    return {
        "img_id": str(3000 + number // 2),
        "turn_index": 1 + number % 2,
        "source_img": {"bytes": png(source), "path": f"{number}-input.png"},
        "mask_img": {"bytes": png(mask), "path": f"{number}-mask.png"},
        "instruction": instruction,
        "target_img": {"bytes": png(target), "path": f"{number}-output.png"},
    }


def write_parquet(rows: list[dict], path: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("img_id", pyarrow.string()), ("turn_index", pyarrow.int32()), ("source_img", image),
         ("mask_img", image), ("instruction", pyarrow.string()), ("target_img", image)]
    )  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    table = pyarrow.Table.from_pylist(rows, schema)
    parquet.write_table(table, path, row_group_size=5)
    return path


@pytest.fixture
def rows() -> list[dict]:
    forms = ("alpha", "white", "black")
    return [magicbrush_row(number, forms[number % 3]) for number in range(24)]


@pytest.fixture
def brush(tmp_path) -> Callable[[list[dict]], MagicBrush]:
    def written(rows: list[dict]) -> MagicBrush:
        return MagicBrush(write_parquet(rows, tmp_path / "data" / "dev.parquet"))

    return written


def test_rows_become_cases_with_free_shapes(rows, tmp_path):
    write_parquet(rows[:12], tmp_path / "data" / "dev-00000-of-00002.parquet")
    write_parquet(rows[12:], tmp_path / "data" / "dev-00001-of-00002.parquet")
    source = ReaderSource(MagicBrush(tmp_path))
    made = build(tmp_path / "out", num_single=16, num_multi=0, source=source)
    assert {case.group for case in made.cases} == {"single"}
    assert Counter(case.kind for case in made.cases) == dict.fromkeys(masks.KINDS, 2)
    assert made.meta["rows"] == 24 and made.meta["rows_with_a_clear_operation"] == 18
    assert "skipped" not in made.meta
    known = {f"magicbrush-{row['img_id']}-{row['turn_index']}": row for row in rows}
    labels = {
        "remove": ("red mug", "background", "a photo of the background"),
        "replace": ("mug", "apple", "a photo of an apple"),
        "add": ("background", "mug", "a photo of a mug"),
    }
    for case in made.cases:
        row = known[case.id]
        assert case.instruction == row["instruction"]
        assert (case.label, case.result_label, case.caption) == labels[case.operation]
        for part, cell in (("scene", "source_img"), ("truth", "target_img")):
            picture = np.asarray(Image.open(io.BytesIO(row[cell]["bytes"])))
            assert (made.picture(case, part) == picture).all()
        full = made.picture(case, "full_mask")
        assert (full == where((20, 16, 40, 36))).all()
        assert (made.picture(case, "region") == full).all()
        mask = made.picture(case, "mask")
        assert 0.08 * full.sum() <= (mask & full).sum() <= 0.7 * full.sum()


def test_datasets_writes_what_is_read_here(rows, tmp_path):
    datasets = pytest.importorskip("datasets")
    image = datasets.Image()
    features = datasets.Features(
        img_id=datasets.Value("string"), turn_index=datasets.Value("int32"), source_img=image,
        mask_img=image, instruction=datasets.Value("string"), target_img=image,
    )  # fmt: skip
    written = datasets.Dataset.from_list(rows, features=features)
    written.to_parquet(str(tmp_path / "dev.parquet"))
    reader = MagicBrush(tmp_path / "dev.parquet")
    assert [reader.read(row).object_mask.sum() for row in reader.rows] == [40 * 36] * 24


def test_the_same_seed_draws_the_same_benchmark(brush, rows, tmp_path):
    source = ReaderSource(brush(rows))
    first, again, other = (
        build(tmp_path / name, num_single=9, num_multi=0, source=source, seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert contents(first.folder) == contents(again.folder) != contents(other.folder)


def test_rows_of_no_use_are_skipped_and_named(brush, rows, tmp_path):
    spoil(rows)
    source = ReaderSource(brush(rows))
    made = build(tmp_path / "out", num_single=14, num_multi=0, source=source)
    reasons = made.meta["skipped"]
    assert 0 < len(reasons) <= 4 and not set(reasons) & {case.id for case in made.cases}
    with pytest.raises(FlexEditError, match=r"18 edits .* 4 could not be used .* 15 single cases"):
        build(tmp_path / "more", num_single=15, num_multi=0, source=source)


def spoil(rows: list[dict]) -> None:
    """Makes four of them useless."""
    rows[0]["mask_img"] = {"bytes": rows[0]["source_img"]["bytes"], "path": "x"}  # marks nothing
    rows[1]["target_img"] = rows[1]["source_img"]
    rows[2]["source_img"] = {"bytes": b"no picture", "path": "x"}
    rows[4]["mask_img"] = None


def test_the_rows_are_trained_on_too_but_those_of_no_use(brush, rows, tmp_path):
    spoil(rows)
    brush(rows)
    edits = Edits(f"magicbrush:{tmp_path}", 64, seed=1)
    samples = [edits[index] for index in range(24)]
    assert {sample.name for sample in samples} == {row.where for row in edits.rows} - {
        "3000-1", "3000-2", "3001-1", "3002-1",
    }  # fmt: skip
    for sample in samples:
        assert sample.instruction in INSTRUCTIONS and sample.scene.shape == (64, 64, 3)
        assert (sample.mask & sample.object_mask).any()
        assert (sample.scene != sample.target)[sample.region].any()
        named = prompts.parse_label(sample.reply)
        assert named == sample.label and (named or sample.reply == prompts.GENERIC_REPLY)


def test_a_data_set_in_which_no_row_is_of_use_is_reported(brush, rows):
    spoil(rows)
    with pytest.raises(FlexEditError, match="shows no change"):
        Edits(brush(rows[1:2]), 64)[0]


def test_a_target_of_another_scale_is_brought_to_the_scene(brush, rows):
    row = rows[0]
    for cell in ("target_img", "mask_img"):
        large = Image.open(io.BytesIO(row[cell]["bytes"])).resize((2 * WIDTH, 2 * HEIGHT))
        row[cell] = {"bytes": png(np.asarray(large)), "path": "x"}
    reader = brush([row])
    assert reader.read(reader.rows[0]).target.shape == (HEIGHT, WIDTH, 3)
    row["target_img"] = {"bytes": png(np.zeros((HEIGHT, HEIGHT), np.uint8)), "path": "x"}
    reader = brush([row])
    with pytest.raises(FlexEditError, match="72×72 pixels, its scene 96×72"):
        reader.read(reader.rows[0])


def test_rows_of_two_files_that_are_called_alike_keep_their_own_pictures(rows, tmp_path):
    for number in (0, 1):
        row = {**rows[4 * number], "img_id": "3000", "turn_index": 1}
        write_parquet([row], tmp_path / "parts" / f"{number}.parquet")
    reader = MagicBrush(tmp_path / "parts")
    one, other = (reader.read(row) for row in reader.rows)
    assert reader.rows[0].where == reader.rows[1].where
    assert not np.array_equal(one.scene, other.scene)


def test_files_that_are_not_of_magicbrush_are_reported(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    with pytest.raises(FlexEditError, match="hf download osunlp/MagicBrush"):
        _ = MagicBrush(tmp_path).rows
    (tmp_path / "dev.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(FlexEditError, match=r"dev\.parquet cannot be read as parquet"):
        _ = MagicBrush(tmp_path).rows
    parquet.write_table(pyarrow.table({"img_id": ["1"]}), tmp_path / "dev.parquet")
    with pytest.raises(FlexEditError, match="lacks the columns instruction, mask_img"):
        _ = MagicBrush(tmp_path).rows


@pytest.mark.parametrize(
    ("instruction", "understood"),
    [
        ("Replace the cat with a dog.", ("replace", "cat", "dog")),
        ("remove the left arm of the old man", ("remove", "", "background")),
        ("delete them", ("remove", "", "background")),
        ("replace the vase by a lamp", ("replace", "vase", "lamp")),
        ("Can you swap the plate for a bowl of soup?", ("replace", "plate", "bowl of soup")),
        ("turn the small white dog into a cat", ("replace", "small white dog", "cat")),
        ("change it into a boat", ("replace", "", "boat")),
        ("get rid of the man behind the fence", ("remove", "man", "background")),
        ("Please, add an umbrella to the table", ("add", "background", "umbrella")),
        ("put a hat on the dog", ("add", "background", "hat")),
        ("add what you would see on a very sunny beach", ("add", "background", "")),
        ("make the sky blue", ("", "", "")),
        ("change the color of the car to red", ("", "", "")),
        ("put out the fire", ("", "", "")),
        ("removed it", ("", "", "")),
        ("remove the hat and add a scarf", ("", "", "")),
        ("", ("", "", "")),
    ],
)
def test_an_operation_is_only_inferred_from_plain_words(instruction, understood):
    assert understand(instruction) == understood


def test_white_of_the_scene_itself_is_not_the_mask():
    scene = with_box(backdrop(0), (0, 0, WIDTH, 12), 255)  # a white sky
    scene = with_box(scene, (30, 30, 6, 6), 255)  # and a white thing inside the mask
    marked = with_box(scene, (20, 20, 30, 30), 255)
    picture = np.dstack([marked, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    assert (masked(picture, scene) == where((20, 20, 30, 30))).all()


def test_a_mask_that_marks_nothing_or_everything_is_refused():
    scene = backdrop(0)
    same = np.dstack([scene, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    for picture in (same, np.zeros_like(same)):
        with pytest.raises(FlexEditError, match="empty or covers"):
            masked(picture, scene)


def test_a_missing_library_is_named(rows, tmp_path, monkeypatch):
    path = write_parquet(rows[:1], tmp_path / "dev.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FlexEditError, match="pip install pyarrow"):
        list(rows_of(path))
