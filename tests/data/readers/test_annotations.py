"""The traps of COCO's format: a disc in a picture of 120 × 80 pixels, however it is written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from flexedit.data.readers.annotations import Annotations, mask_of
from flexedit.errors import FlexEditError
from flexedit.files import Frame, frame_of

pytest.importorskip("pycocotools")

HEIGHT, WIDTH = 80, 120
AS_IS = Frame((HEIGHT, WIDTH), (HEIGHT, WIDTH), 1)
ANGLES = np.arange(24) * 2 * np.pi / 24
DISC = np.stack([70.5 + 15.5 * np.cos(ANGLES), 30.5 + 15.5 * np.sin(ANGLES)], -1)
FLAT = DISC.reshape(-1).tolist()


def disc() -> np.ndarray:
    return mask_of([FLAT], None, AS_IS, "it")


def runs(mask: np.ndarray) -> dict:
    """Uncompressed"""
    column = np.concatenate([[False], mask.T.ravel(), [False]])
    changes = np.flatnonzero(column[1:-1] != column[:-2])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    return {"size": list(mask.shape), "counts": counts}


def packed(mask: np.ndarray) -> dict:
    from pycocotools import mask as rle

    return rle.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_the_disc_is_where_its_points_are():
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    truth = (x - 70.5) ** 2 + (y - 30.5) ** 2 <= 15.5**2
    assert (disc() ^ truth).sum() < 40 and abs(int(disc().sum()) - int(truth.sum())) < 25


@pytest.mark.parametrize(
    "write",
    [
        lambda mask: FLAT,
        lambda mask: DISC.tolist(),
        lambda mask: [DISC.tolist()],
        lambda mask: [FLAT, [1, 1, 5, 5]],  # four numbers are no polygon, and no box either
        lambda mask: runs(mask),
        lambda mask: [runs(mask)],
        lambda mask: packed(mask),  # counts are bytes
        lambda mask: packed(mask) | {"counts": packed(mask)["counts"].decode()},
        lambda mask: [runs(mask & (np.arange(WIDTH) < 70)), runs(mask & (np.arange(WIDTH) >= 70))],
    ],
)
def test_it_is_the_same_mask_however_it_is_written(write):
    assert np.array_equal(mask_of(write(disc()), (HEIGHT, WIDTH), AS_IS, "it"), disc())


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("made_of", ["stored", "seen"])
@pytest.mark.parametrize("form", ["polygon", "runs"])
def test_masks_lie_over_pictures_as_they_are_seen(turn, made_of, form, tmp_path):
    """Whichever of the two they were made of; of half turns nobody can tell"""
    scene = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    scene[disc()] = 255
    seen = Image.fromarray(scene)
    back = {6: 8, 8: 6}.get(turn, turn)
    seen.getexif()[ExifTags.Base.Orientation] = back
    stored = ImageOps.exif_transpose(seen)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    stored.save(tmp_path / "a.png", exif=exif)
    frame = frame_of(tmp_path / "a.png")
    assert frame == Frame(stored.size[::-1], (HEIGHT, WIDTH), turn)
    told = turn == 1 or turn > 4
    if made_of == "seen" and not told:
        return
    points = DISC
    if made_of == "stored":
        points = turned(DISC, back)
    size = getattr(frame, made_of)
    shape = [points.reshape(-1).tolist()]
    if form == "runs":
        shape = runs(mask_of(shape, None, Frame(size, size, 1), "it"))
    found = mask_of(shape, size, frame, "it")
    assert found.shape == (HEIGHT, WIDTH)
    assert (found & disc()).sum() / (found | disc()).sum() > 0.93


def turned(points: np.ndarray, turn: int) -> np.ndarray:
    """Where points of a picture of 120 × 80 are once it is transposed as EXIF's number says"""
    x, y = points.T
    moved = {
        1: (x, y), 2: (WIDTH - x, y), 3: (WIDTH - x, HEIGHT - y), 4: (x, HEIGHT - y),
        5: (y, x), 6: (HEIGHT - y, x), 7: (HEIGHT - y, WIDTH - x), 8: (y, WIDTH - x),
    }  # fmt: skip
    return np.stack(moved[turn], -1)


@pytest.mark.parametrize("scale", [0.5, 3])
@pytest.mark.parametrize("form", ["polygon", "runs"])
def test_a_picture_that_was_resized_since_has_its_mask_scaled(scale, form):
    size = (int(HEIGHT * scale), int(WIDTH * scale))
    shape = [(DISC * scale).reshape(-1).tolist()]
    if form == "runs":
        shape = runs(mask_of(shape, None, Frame(size, size, 1), "it"))
    found = mask_of(shape, size, AS_IS, "it")
    assert (found & disc()).sum() / (found | disc()).sum() > 0.9


def test_another_shape_is_refused_with_both_sizes():
    with pytest.raises(FlexEditError, match="of 200×80 pixels, but this one has 120×80"):
        mask_of([FLAT], (HEIGHT, 200), AS_IS, "it")
    with pytest.raises(FlexEditError, match="of 120000×80000 pixels"):
        mask_of({"size": [80000, 120000], "counts": [9_600_000_000]}, None, AS_IS, "it")


def test_what_is_beyond_the_border_is_cut_off():
    found = mask_of([[100, 60, 200, 60, 200, 160, 100, 160]], None, AS_IS, "it")
    assert found[60:, 100:].all() and found.sum() == 20 * 20


def annotations(folder: Path, **changes) -> Annotations:
    content = {
        "images": [{"id": 7, "file_name": "schön.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 3, "name": "杯子"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": [FLAT]}],
    }
    file = folder / "instances.json"
    text = json.dumps(content | changes, ensure_ascii=False)
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())  # a mark at the start
    return Annotations.read(file)


def test_ids_are_one_if_they_are_written_alike_and_names_are_any_text(tmp_path):
    known = annotations(tmp_path)
    row = known.annotations["1"]
    assert (known.image("7")["file_name"], known.label(row)) == ("schön.png", "杯子")
    assert np.array_equal(known.mask(row, AS_IS), disc())


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_an_id_that_is_twice_is_named(part, tmp_path):
    rows = [
        {"id": key, "image_id": 7, "category_id": 3, "name": "", "file_name": ""}
        for key in (5, "5")
    ]
    with pytest.raises(FlexEditError, match=f"the id 5 is twice among {part}"):
        annotations(tmp_path, **{part: rows})


@pytest.mark.parametrize("content", [b"[" * 100_000, '{"images": []}'.encode("utf-16"), b"{}"])
def test_what_is_no_annotation_file_is_said_in_one_line(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FlexEditError, match=r"a\.json") as refused:
        Annotations.read(tmp_path / "a.json")
    assert len(str(refused.value)) < 1000


def test_neighbours_are_masks_too_but_for_crowds_and_those_without_a_shape(tmp_path):
    base = {"image_id": 7, "category_id": 3}
    square = [[1, 1, 9, 1, 9, 9, 1, 9]]
    known = annotations(
        tmp_path,
        annotations=[
            {"id": 1, "segmentation": [FLAT], **base},
            {"id": 2, "segmentation": square, **base},
            {"id": 3, "segmentation": None, **base},
            {"id": 4, "segmentation": [], **base},
            {"id": 5, "segmentation": runs(disc()), "iscrowd": 1, **base},
        ],
    )
    others = known.others(known.annotations["1"], AS_IS)
    assert [int(other.sum()) for other in others] == [64]
