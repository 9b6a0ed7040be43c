"""Cases from data sets in the formats they are published in, made here with a few small rows."""

import io
import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexedit import masks
from flexedit.benchmark.build import build
from flexedit.benchmark.sources import ReaderSource, shape_over
from flexedit.data.readers import magicbrush
from flexedit.data.readers.coco import Coco
from flexedit.data.readers.magicbrush import MagicBrush, masked, short_name, understand
from flexedit.data.readers.reader import edited_region
from flexedit.errors import FlexEditError

HEIGHT, WIDTH = 72, 96
SEGMENTATIONS = ("polygon", "run lengths", "compressed")
OPERATIONS = ("remove", "replace", "add")


def backdrop(seed: int) -> np.ndarray:
    """Smooth noise (H, W, 3) uint8 of middling brightness"""
    cells = np.random.default_rng(seed).integers(60, 160, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def with_box(picture: np.ndarray, box: tuple[int, int, int, int], color) -> np.ndarray:
    """A picture with a filled box (x, y, width, height)"""
    x, y, width, height = box
    painted = picture.copy()
    painted[y : y + height, x : x + width] = color
    return painted


def where(box: tuple[int, int, int, int]) -> np.ndarray:
    return with_box(np.zeros((HEIGHT, WIDTH, 3), np.uint8), box, 1)[..., 0] > 0


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


# COCO


def segmentation(box: tuple[int, int, int, int], form: str):
    rle = pytest.importorskip("pycocotools.mask")
    x, y, width, height = box
    if form == "polygon":
        return [[x, y, x + width, y, x + width, y + height, x, y + height]]
    columns = where(box).T.ravel()  # run lengths go down the columns, and start with zeros
    runs = [len(list(run)) for _, run in itertools.groupby(columns)]
    plain = {"counts": runs, "size": [HEIGHT, WIDTH]}
    if form == "run lengths":
        return plain
    packed = rle.encode(np.asfortranarray(where(box).astype(np.uint8)))
    return {"counts": packed["counts"].decode(), "size": packed["size"]}


class CocoFiles:
    """An annotation file, pictures and edits; each picture holds a mug, and a box beside it."""

    def __init__(self, folder: Path, num_single: int = 9, num_multi: int = 8) -> None:
        self.folder = folder
        self.boxes, self.rows = [], []
        images, annotations = [], []
        (folder / "pictures").mkdir()
        (folder / "edited").mkdir()
        for number in range(num_single + num_multi):
            empty = with_box(backdrop(number), (70, 10, 20, 50), (30, 30, 200))
            box = (8 + number % 7, 12 + number % 5, 34, 30)
            full = with_box(empty, box, (220, 40, 40))
            is_multi = number >= num_single
            operation = OPERATIONS[1 + number % 2 if is_multi else number % 3]
            edited = with_box(empty, box, (40, 220, 40)) if operation == "replace" else empty
            name = f"{number:012d}.png"
            Image.fromarray(full).save(folder / "pictures" / name)
            Image.fromarray(edited).save(folder / "edited" / name)
            form = SEGMENTATIONS[number % 3]
            images.append({"id": 100 + number, "file_name": name, "height": HEIGHT, "width": WIDTH})
            for key, one in ((1000 + number, box), (2000 + number, (70, 10, 20, 50))):
                annotations.append(
                    {"id": key, "image_id": 100 + number, "category_id": 47 if one == box else 84,
                     "segmentation": segmentation(one, form), "iscrowd": 0}
                )  # fmt: skip
            row = {
                "image_id": 100 + number,
                "annotation_id": 1000 + number,
                "edited": f"edited/{name}",
                "instruction": f"{operation} it",
                "operation": operation,
                "setting": "indoor",
            }
            row |= {"result_label": "apple"} if operation == "replace" else {}
            row |= {"subject": f"edited/{name}", "subject_setting": "simple"} if is_multi else {}
            self.boxes.append(box)
            self.rows.append(row)
        self.instances = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 47, "name": "mug"}, {"id": 84, "name": "book"}],
        }

    def source(self) -> ReaderSource:
        annotations, edits = self.folder / "instances.json", self.folder / "edits.jsonl"
        annotations.write_text(json.dumps(self.instances), encoding="utf-8")
        lines = [row if isinstance(row, str) else json.dumps(row) for row in self.rows]
        edits.write_text("\n".join(lines), encoding="utf-8")
        return ReaderSource(Coco(annotations, self.folder / "pictures", edits))


@pytest.fixture
def coco(tmp_path) -> CocoFiles:
    pytest.importorskip("pycocotools")
    (tmp_path / "coco").mkdir()
    return CocoFiles(tmp_path / "coco")


def test_coco_instances_become_cases_with_free_shapes(coco, tmp_path):
    made = build(tmp_path / "out", num_single=9, num_multi=8, source=coco.source())
    assert len(made.cases) == 17
    for group in ("single", "multi"):
        kinds = Counter(case.kind for case in made.cases if case.group == group)
        assert set(kinds) == set(masks.KINDS) and max(kinds.values()) - min(kinds.values()) <= 1
    for case in made.cases:
        line = int(case.id.removeprefix("coco-"))
        row, box = coco.rows[line - 1], coco.boxes[line - 1]
        scene, truth = made.picture(case, "scene"), made.picture(case, "truth")
        picture = np.asarray(Image.open(coco.folder / "pictures" / f"{line - 1:012d}.png"))
        full, mask = made.picture(case, "full_mask"), made.picture(case, "mask")
        assert (full == where(box)).all()  # whichever way the instance was written
        assert (made.picture(case, "region") == full).all()
        assert (picture == (truth if case.operation == "add" else scene)).all()
        assert (mask & full).sum() > (mask & where((70, 10, 20, 50))).sum()
        assert (case.operation, case.instruction) == (row["operation"], row["instruction"])
        assert case.setting == "indoor" and (case.group == "multi") == ("subject" in row)
        labels = {"remove": ("mug", "background"), "replace": ("mug", "apple")}
        expected = labels.get(case.operation, ("background", "mug"))
        assert (case.label, case.result_label) == expected


def test_the_same_seed_draws_the_same_coco_benchmark(coco, tmp_path):
    first, again, other = (
        build(tmp_path / name, num_single=5, num_multi=4, source=coco.source(), seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert contents(first.folder) == contents(again.folder) != contents(other.folder)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_operations_are_as_even_as_the_rows_allow(coco, tmp_path):
    made = build(tmp_path / "even", num_single=6, num_multi=4, source=coco.source())
    single = Counter(case.operation for case in made.cases if case.group == "single")
    assert single == {"add": 2, "replace": 2, "remove": 2}
    coco.rows = [row for row in coco.rows if row["operation"] == "remove"]
    made = build(tmp_path / "removals", num_single=3, num_multi=0, source=coco.source())
    assert {case.operation for case in made.cases} == {"remove"}


def test_an_object_of_several_polygons_is_their_union(coco, tmp_path):
    halves = [(10, 10, 20, 40), (30, 10, 20, 40)]
    coco.rows, first = coco.rows[:1], coco.instances["annotations"][0]
    first["segmentation"] = [segmentation(box, "polygon")[0] for box in halves]
    made = build(tmp_path / "out", num_single=1, num_multi=0, source=coco.source())
    assert (made.picture(made.cases[0], "full_mask") == where((10, 10, 40, 40))).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 7}, "line 2: .*no image with the id 7"),
        ({"annotation_id": 1000}, "line 2: .*no annotation with the id 1000; it has 1001, 2001"),
        ({"edited": "edited/none.png"}, "line 2: .*none.png cannot be read"),
        ({"edited": "instances.json"}, "line 2: .*instances.json cannot be read as a picture"),
        ({"edited": "small.png"}, "line 2: .*edited picture is 8×8 pixels.*bring it to"),
        ({"edited": "pictures/000000000001.png"}, "line 2: .*shows no change"),
        ({"operation": "recolor"}, "line 2: .*operation is 'recolor'; choose one of add, replace"),
        ({"setting": "space"}, "line 2: .*setting is 'space'"),
        ({"instruction": " "}, "line 2: .*instruction is empty"),
        ({"instruction": 5}, "line 2: .*instruction is 5"),
        ({"result_label": ""}, "line 2: .*needs result_label"),
        ({"subject": "small.png"}, "line 2: .*the subject has no subject_setting"),
        ({"subject_setting": "simple"}, "line 2: .*without a subject"),
        ({"operation": "remove", "subject": "small.png", "subject_setting": "simple"},
         "line 2: .*removal needs no subject"),
        ({"colour": "red"}, "line 2: unknown setting colour"),
    ],
)  # fmt: skip
def test_a_bad_edit_is_named_by_its_line(coco, tmp_path, change, message):
    Image.new("RGB", (8, 8)).save(coco.folder / "small.png")
    coco.rows[1] |= change
    with pytest.raises(FlexEditError, match=message):
        build(tmp_path / "out", num_single=9, num_multi=0, source=coco.source())
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("line", ["{", "[]", '{"image_id": 100}'])
def test_a_line_that_is_no_edit_is_named(coco, tmp_path, line):
    coco.rows[2] = line
    with pytest.raises(FlexEditError, match=r"edits\.jsonl, line 3:"):
        build(tmp_path / "out", num_single=3, num_multi=0, source=coco.source())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": []}, "line 1: .*annotation 1000 is empty"),
        ({"segmentation": [[1, 1, 5, 5]]}, "line 1: .*annotation 1000 is empty"),
        (
            {"segmentation": {"counts": [64], "size": [8, 8]}},
            "annotation 1000 has no run lengths of",
        ),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "annotation 1000 has no run lengths of"),
        ({"category_id": 3}, "line 1: .*category 3"),
    ],
)
def test_a_bad_annotation_is_named(coco, tmp_path, change, message):
    coco.rows = coco.rows[:1]
    coco.instances["annotations"][0] |= change
    with pytest.raises(FlexEditError, match=message):
        build(tmp_path / "out", num_single=1, num_multi=0, source=coco.source())


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_a_file_that_is_not_coco_is_reported(coco, tmp_path, part):
    del coco.instances[part]
    with pytest.raises(FlexEditError, match="cannot be read as COCO-format annotations"):
        build(tmp_path / "out", num_single=1, num_multi=0, source=coco.source())


def test_asking_for_more_edits_than_there_are_is_reported_at_once(coco, tmp_path):
    with pytest.raises(FlexEditError, match=r"9 edits without a subject .* 80 single cases"):
        build(tmp_path / "out", num_single=80, num_multi=0, source=coco.source())
    with pytest.raises(FlexEditError, match=r"8 edits with a subject .* 9 multi cases"):
        build(tmp_path / "out", num_single=9, num_multi=9, source=coco.source())


def test_missing_edits_are_reported(coco, tmp_path):
    source = coco.source()
    source.reader.edits.unlink()
    with pytest.raises(FlexEditError, match=r"edits\.jsonl cannot be read"):
        build(tmp_path / "out", num_single=1, num_multi=0, source=source)


# MagicBrush

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


def test_magicbrush_rows_become_cases_with_free_shapes(rows, tmp_path):
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
    source = ReaderSource(MagicBrush(tmp_path / "dev.parquet"))
    assert len(build(tmp_path / "out", num_single=8, num_multi=0, source=source).cases) == 8


def test_the_same_seed_draws_the_same_magicbrush_benchmark(rows, tmp_path):
    source = ReaderSource(MagicBrush(write_parquet(rows, tmp_path / "data" / "dev.parquet")))
    first, again, other = (
        build(tmp_path / name, num_single=9, num_multi=0, source=source, seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert contents(first.folder) == contents(again.folder) != contents(other.folder)


def test_rows_of_no_use_are_skipped_and_named(rows, tmp_path):
    rows[0]["mask_img"] = {"bytes": rows[0]["source_img"]["bytes"], "path": "x"}  # marks nothing
    rows[1]["target_img"] = rows[1]["source_img"]
    rows[2]["source_img"] = {"bytes": b"no picture", "path": "x"}
    rows[4]["mask_img"] = None
    source = ReaderSource(MagicBrush(write_parquet(rows, tmp_path / "data" / "dev.parquet")))
    made = build(tmp_path / "out", num_single=14, num_multi=0, source=source)
    reasons = made.meta["skipped"]
    assert 0 < len(reasons) <= 4 and not set(reasons) & {case.id for case in made.cases}
    with pytest.raises(FlexEditError, match="too few rows for 15 cases: 4 could not be used"):
        build(tmp_path / "more", num_single=15, num_multi=0, source=source)


def test_a_target_of_another_scale_is_brought_to_the_scene(rows, tmp_path):
    row = rows[0]
    for cell in ("target_img", "mask_img"):
        large = Image.open(io.BytesIO(row[cell]["bytes"])).resize((2 * WIDTH, 2 * HEIGHT))
        row[cell] = {"bytes": png(np.asarray(large)), "path": "x"}
    source = ReaderSource(MagicBrush(write_parquet([row], tmp_path / "data" / "dev.parquet")))
    made = build(tmp_path / "out", num_single=1, num_multi=0, source=source)
    assert made.picture(made.cases[0], "truth").shape == (HEIGHT, WIDTH, 3)
    wrong = Image.open(io.BytesIO(row["target_img"]["bytes"])).resize((HEIGHT, HEIGHT))
    row["target_img"] = {"bytes": png(np.asarray(wrong)), "path": "x"}
    source = ReaderSource(MagicBrush(write_parquet([row], tmp_path / "data" / "dev.parquet")))
    with pytest.raises(FlexEditError, match="72×72 pixels, its scene 96×72"):
        build(tmp_path / "other", num_single=1, num_multi=0, source=source)


def test_magicbrush_has_no_subjects(rows, tmp_path):
    source = ReaderSource(MagicBrush(write_parquet(rows, tmp_path / "data" / "dev.parquet")))
    with pytest.raises(FlexEditError, match=r"0 edits with a subject .* 1 multi cases"):
        build(tmp_path / "out", num_single=1, num_multi=1, source=source)


def test_a_folder_without_usable_parquet_files_is_reported(rows, tmp_path):
    source = ReaderSource(MagicBrush(tmp_path))
    with pytest.raises(FlexEditError, match="hf download osunlp/MagicBrush"):
        build(tmp_path / "out", num_single=1, num_multi=0, source=source)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(FlexEditError, match=r"broken\.parquet cannot be read as parquet"):
        build(tmp_path / "out", num_single=1, num_multi=0, source=source)
    few = write_parquet(rows[:2], tmp_path / "data" / "dev.parquet")
    with pytest.raises(FlexEditError, match=r"2 edits without a subject .* 3 single cases"):
        build(tmp_path / "out", num_single=3, num_multi=0, source=ReaderSource(MagicBrush(few)))


def test_a_parquet_file_of_something_else_is_reported(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"img_id": ["1"]}), tmp_path / "dev.parquet")
    source = ReaderSource(MagicBrush(tmp_path))
    with pytest.raises(FlexEditError, match="lacks the columns instruction, mask_img"):
        build(tmp_path / "out", num_single=1, num_multi=0, source=source)


@pytest.mark.parametrize(
    ("instruction", "understood"),
    [
        ("Replace the cat with a dog.", ("replace", "cat", "dog")),
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


def test_names_are_short_or_unknown():
    assert short_name("the left arm of the old man") == ""
    assert short_name("a tea cup") == "tea cup"
    assert short_name("them") == short_name("") == ""


@pytest.mark.parametrize("form", ["alpha", "white", "black"])
def test_a_mask_picture_marks_by_alpha_by_white_or_by_difference(form):
    row = magicbrush_row(0, form)
    scene = np.asarray(Image.open(io.BytesIO(row["source_img"]["bytes"])))
    picture = np.asarray(Image.open(io.BytesIO(row["mask_img"]["bytes"])).convert("RGBA"))
    assert (masked(picture, scene) == where((20, 16, 40, 36))).all()


def test_white_of_the_scene_itself_is_not_the_mask():
    scene = with_box(backdrop(0), (0, 0, WIDTH, 12), 255)  # a white sky
    scene = with_box(scene, (30, 30, 6, 6), 255)  # and a white thing inside the mask
    marked = with_box(scene, (20, 20, 30, 30), 255)
    picture = np.dstack([marked, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    assert (masked(picture, scene) == where((20, 20, 30, 30))).all()


def test_a_mask_that_marks_nothing_or_everything_is_refused():
    scene = backdrop(0)
    same = np.dstack([scene, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    with pytest.raises(FlexEditError, match="empty or covers"):
        masked(same, scene)
    with pytest.raises(FlexEditError, match="empty or covers"):
        masked(np.zeros_like(same), scene)


# What both share


@pytest.mark.parametrize("quality", [70, 95])
def test_lossy_files_are_no_difference(quality):
    scene, box = backdrop(1), (30, 20, 30, 30)
    file = io.BytesIO()
    Image.fromarray(with_box(scene, box, (230, 30, 30))).save(file, "JPEG", quality=quality)
    region = edited_region(scene, np.asarray(Image.open(file)), where((40, 30, 10, 10)))
    near = masks.grow(torch.from_numpy(where(box))[None].float(), 3)[0].numpy() > 0
    assert (region >= where(box)).all() and (region <= near).all()


def test_changes_far_from_the_mask_belong_to_the_region_too():
    scene = backdrop(2)
    truth = with_box(with_box(scene, (5, 5, 10, 10), 255), (70, 50, 10, 10), 255)
    region = edited_region(scene, truth, where((0, 0, 4, 4)))
    assert region[10, 10] and region[55, 75] and region[1, 1] and not region[40, 40]


@pytest.mark.parametrize("kind", masks.KINDS)
def test_a_shape_is_drawn_even_on_an_object_within_a_larger_one(kind):
    cup, table = where((40, 30, 14, 14)), where((5, 10, 85, 60))
    for seed in range(5):
        mask, turn = shape_over(kind, cup, np.random.default_rng(seed), [table])
        assert (mask & cup).sum() >= 0.08 * cup.sum() and np.isfinite(turn)


def test_an_object_too_small_for_a_shape_is_reported():
    with pytest.raises(FlexEditError, match=r"no circle open covers .* 1 pixels; leave this row"):
        shape_over("circle open", where((0, 0, 1, 1)), np.random.default_rng(0))


def test_a_missing_library_is_named(rows, tmp_path, monkeypatch):
    path = write_parquet(rows[:1], tmp_path / "dev.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FlexEditError, match="pip install pyarrow"):
        list(magicbrush.rows_of(path))
