import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexedit import masks
from flexedit.benchmark.build import build
from flexedit.benchmark.sources import ReaderSource
from flexedit.data.edits import Edits
from flexedit.data.readers.annotations import runs_mask
from flexedit.data.readers.coco import Coco
from flexedit.errors import FlexEditError
from tests.data.readers.made import HEIGHT, WIDTH, Box, backdrop, where, with_box

SEGMENTATIONS = ("polygon", "run lengths", "compressed")
OPERATIONS = ("remove", "replace", "add")


def segmentation(box: Box, form: str):
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


def runs(counts):
    return {"segmentation": {"counts": counts, "size": [HEIGHT, WIDTH]}}


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
        ({"instruction": " "}, "line 2: .*instruction is empty"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": []}, "line 1: .*annotation 1000 has no segmentation"),
        ({"segmentation": [[1, 1, 5, 5]]}, "line 1: .*annotation 1000 has only polygons of less"),
        ({"segmentation": [[1, 1, 1, 1, 1, 1]]}, "line 1: .*mask of the annotation 1000 is empty"),
        ({"segmentation": {"counts": [64], "size": [8, 8]}}, "1000 was made of .* 8×8 .*96×72"),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "1000 has run lengths that are no numbers"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": [6912]}}, "of 72×96 pixels.*96×72"),
        ({"category_id": 3}, "line 1: .*category 3"),
        ({"category_id": 9}, "line 1: the category 9 has no name"),
        ({"segmentation": "none"}, "annotation 1000 has a segmentation that is neither"),
        ({"segmentation": [[1, 1, 5, 5, 1e30, 1]]}, "annotation 1000 has a polygon far from"),
        (
            {"segmentation": [[1, 1, 5, 5, None, 1]]},
            "polygon far from .* without numbers",
        ),
        ({"segmentation": [["a"] * 6]}, "segmentation that is neither"),
        (runs([HEIGHT * WIDTH, 3]), "cover 6915 pixels of a picture that has 6912"),
        (runs([-1, HEIGHT * WIDTH + 1]), "has a run length below 0"),
        (runs("01"), "cover 1 pixels"),
        (runs(None), "run lengths that are no numbers"),
        (runs([None]), "run lengths that are no numbers"),
        (runs("ä"), "run lengths that are no numbers"),
    ],
)
def test_a_bad_annotation_is_named(coco, tmp_path, change, message):
    coco.rows = coco.rows[:1]
    coco.instances["categories"].append({"id": 9})
    coco.instances["annotations"][0] |= change
    with pytest.raises(FlexEditError, match=message):
        build(tmp_path / "out", num_single=1, num_multi=0, source=coco.source())


def test_a_neighbour_without_a_shape_is_none(coco, tmp_path):
    coco.rows = coco.rows[:1]
    coco.instances["annotations"][1]["segmentation"] = None
    made = build(tmp_path / "out", num_single=1, num_multi=0, source=coco.source())
    assert (made.picture(made.cases[0], "full_mask") == where(coco.boxes[0])).all()


def test_all_rows_are_looked_at_before_the_first_is_read(coco):
    (coco.folder / "pictures" / f"{5:012d}.png").unlink()
    with pytest.raises(FlexEditError, match=r"line 6: .*5\.png cannot be read"):
        Edits(coco.source().reader, 72)
    del coco.instances["images"][3]["file_name"]
    with pytest.raises(FlexEditError, match="line 4: the image 103 has no file_name"):
        Edits(coco.source().reader, 72)


def test_run_lengths_are_unpacked_as_cocos_own_tools_do():
    rle = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.1
    mask[10:60, 20:70] ^= True
    packed = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(runs_mask(packed["counts"].decode(), [HEIGHT, WIDTH], ""), mask)


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_a_file_that_is_not_coco_is_reported(coco, tmp_path, part):
    del coco.instances[part]
    with pytest.raises(FlexEditError, match="cannot be read as COCO-format annotations"):
        build(tmp_path / "out", num_single=1, num_multi=0, source=coco.source())


def test_asking_for_more_edits_than_there_are_is_reported_at_once(coco, tmp_path):
    with pytest.raises(FlexEditError, match=r"9 edits without a subject.* 80 single cases"):
        build(tmp_path / "out", num_single=80, num_multi=0, source=coco.source())
    with pytest.raises(FlexEditError, match=r"8 edits with a subject.* 9 multi cases"):
        build(tmp_path / "out", num_single=9, num_multi=9, source=coco.source())


def test_the_edits_are_trained_on_with_scribbles_over_the_annotated_objects(coco):
    edits = Edits(coco.source().reader, 72)
    samples = [edits[index] for index in range(17)]
    assert {sample.operation for sample in samples} == set(OPERATIONS)
    for sample in samples:
        assert (sample.mask & sample.object_mask).any()
        assert sample.object_mask.shape == sample.scene.shape[:2] == (72, 72)
        assert (sample.subject is None) == (coco.rows[int(sample.name) - 1].get("subject") is None)
