"""Data sets in the form in which they are released, each with what goes wrong in it."""

import base64
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexedit import prompts
from flexedit.data.edits import Edits
from flexedit.data.readers import DATA_SETS, data_set, placed
from flexedit.data.sayings import sayings, segment_instruction
from flexedit.errors import FlexEditError
from flexedit.masks import COLORS, read_painted
from tests.data.readers.made import HEIGHT, WIDTH, backdrop, png, where, with_box
from tests.data.shards import write_captions, write_pairs

BOX, OTHER = (10, 12, 30, 24), (60, 8, 20, 40)
RED = (220, 40, 40)


def save(array: np.ndarray, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def write(content, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def scene() -> np.ndarray:
    return with_box(backdrop(0), BOX, RED)


def polygon(box) -> list:
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def runs(mask: np.ndarray) -> dict:
    from pycocotools import mask as rle

    packed = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": packed["counts"].decode()}


@pytest.fixture
def coco(tmp_path) -> Path:
    """COCO's annotations of one picture: a cup, two chairs, a crowd"""
    pytest.importorskip("pycocotools")
    save(scene(), tmp_path / "train" / "7.png")
    of = {"image_id": 7, "iscrowd": 0}
    shapes = [
        {"id": 1, "category_id": 3, "segmentation": polygon(BOX), **of},
        {"id": 2, "category_id": 4, "segmentation": polygon(OTHER), **of},
        {"id": 3, "category_id": 4, "segmentation": runs(where((50, 60, 9, 9))), **of},
        {"id": 4, "category_id": 4, "segmentation": [], **of},
        {"id": 5, "category_id": 4, "segmentation": runs(where(OTHER)), **of | {"iscrowd": 1}},
    ]
    write(
        {
            "images": [{"id": 7, "file_name": "7.png", "height": HEIGHT, "width": WIDTH}],
            "categories": [{"id": 3, "name": "cup"}, {"id": 4, "name": "chair"}],
            "annotations": shapes,
        },
        tmp_path / "instances.json",
    )
    return tmp_path


def read(text: str) -> list:
    reader = data_set(text)
    return [reader.read(row) for row in reader.rows]


def test_objects_of_coco_are_segmented_but_for_crowds(coco):
    cup, chair, small = read(f"coco-instances:{coco}/instances.json,{coco}/train")
    assert np.array_equal(cup.object_mask, where(BOX)) and np.array_equal(cup.scene, scene())
    assert (cup.task, cup.label, cup.reply) == ("segment", "cup", "The masks means 'cup'")
    assert cup.target is None and cup.expression == "" and len(cup.others) == 2
    assert chair.label == small.label == "chair" and small.object_mask.sum() == 81


def refs(*rows: dict) -> list[dict]:
    defaults = {"image_id": 7, "split": "train", "file_name": "COCO_train2014_7_1.jpg"}
    return [
        defaults
        | {"ref_id": number, "sentences": [{"sent": text} for text in row.pop("said")]}
        | row
        for number, row in enumerate(rows)
    ]


def test_refcoco_has_several_expressions_of_an_object(coco):
    rows = refs(
        {"ann_id": 1, "category_id": 3, "said": ["the cup", "left thing"]},
        {"ann_id": 2, "category_id": 4, "said": ["chair"], "split": "val"},
    )
    (coco / "refs(unc).p").write_bytes(pickle.dumps(rows, protocol=2))
    text = f"refcoco:{coco}/refs(unc).p,{coco}/instances.json,{coco}/train"
    reader = data_set(text)
    said = [reader.read(reader.rows[0], turn).expression for turn in range(3)]
    assert said == ["the cup", "left thing", "the cup"] and len(reader.rows) == 1
    (sample,) = read(text)
    assert sample.label == "cup" and np.array_equal(sample.object_mask, where(BOX))
    assert read(text + ",val")[0].label == "chair"
    with pytest.raises(FlexEditError, match="no rows of the split test; it has train, val"):
        read(text + ",test")


def test_a_pickle_of_python_2_is_read_and_one_that_runs_programs_is_not(coco):
    """Texts of Python 2 are bytes, in UTF-8."""
    old = (
        b"(lp0\n(dp1\nS'ref_id'\np2\nI5\nsS'ann_id'\np3\nI1\nsS'category_id'\np4\nI3\nsS'image_id'\np5\n"
        b"I7\nsS'split'\np6\nS'train'\np7\nsS'sentences'\np8\n(lp9\n(dp10\nS'sent'\np11\n"
        b"S'caf\\xc3\\xa9 cup'\np12\nsasa."
    )
    file = coco / "refs(unc).p"
    file.write_bytes(old)
    text = f"refcoco:{file},{coco}/instances.json,{coco}/train"
    assert read(text)[0].expression == "café cup"
    file.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(FlexEditError, match=r"names os.system, which plain data does not"):
        read(text)


def test_grefcoco_unites_objects_and_has_rows_of_none(coco):
    rows = refs(
        {"ann_id": [1, 2, 5], "category_id": [3, 4, 4], "said": ["all of it"]},
        {"ann_id": [-1], "category_id": [-1], "said": ["a zebra"]},
    )
    write(rows, coco / "grefs(unc).json")
    text = f"grefcoco:{coco}/grefs(unc).json,{coco}/instances.json,{coco}/train"
    both, none = read(text)
    assert np.array_equal(both.object_mask, where(BOX) | where(OTHER))  # without the crowd
    assert both.label == "cup and chair"
    assert none.object_mask is None and none.mask is None and none.label == ""
    samples = [Edits(text, 64)[index] for index in range(2)]
    without = next(sample for sample in samples if sample.object_mask is None)
    assert np.array_equal(without.target, without.scene) and not without.region.any()
    assert "a zebra" in without.reply and "a zebra" in without.instruction


def test_coco_stuff_counts_indices_and_not_colours(tmp_path):
    classes = np.full((HEIGHT, WIDTH), 255, np.uint8)
    classes[where(BOX)] = 0
    classes[where(OTHER)] = 91
    classes[0, 0] = 17  # too small to be meant
    palette = Image.fromarray(classes, "L")
    palette.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
    (tmp_path / "maps").mkdir()
    palette.save(tmp_path / "maps" / "000000000007.png")
    assert Image.open(tmp_path / "maps" / "000000000007.png").mode == "P"
    save(scene(), tmp_path / "train" / "000000000007.jpg")
    (tmp_path / "labels.txt").write_text("0: unlabeled\n1: person\n18: cat\n92: banner\n")
    reader = data_set(f"coco-stuff:{tmp_path}/maps,{tmp_path}/train,{tmp_path}/labels.txt")
    first, second = (reader.read(reader.rows[0], turn) for turn in range(2))
    assert (first.label, second.label) == ("person", "banner")
    assert np.array_equal(first.object_mask, where(BOX))
    assert np.array_equal(first.others[0], where(OTHER))


def test_reasonseg_asks_in_sentences_and_has_its_masks_as_jpeg(tmp_path):
    texts = ["What is drunk from?", "Where would tea be?"]
    write({"text": texts, "Name": "Cup"}, tmp_path / "j" / "a" / "7.json")
    save(scene(), tmp_path / "p" / "a" / "7.jpg")
    save(where(BOX).astype(np.uint8) * 255, tmp_path / "m" / "a" / "7.jpg", quality=60)
    text = f"reasonseg:{tmp_path}/j,{tmp_path}/p,{tmp_path}/m"
    (sample,) = read(text)
    assert sample.label == "cup" and sample.instruction == texts[0]
    assert np.array_equal(sample.object_mask, where(BOX))  # the grey around its edges is cut off
    drawn = Edits(text, 64)[0]
    assert drawn.instruction.startswith(texts[0] + " ") and drawn.caption.startswith("mark the cup")


def test_reasonedit_has_several_sayings_and_no_mask(tmp_path):
    save(scene(), tmp_path / "a.png")
    save(backdrop(0), tmp_path / "b.png")
    pair = {"origin_img_path": "a.png", "target_img_path": "b.png"}
    write({"0000": pair | {"instruction": ["remove cup", "no cup"]}}, tmp_path / "train.json")
    reader = data_set(f"reasonedit:{tmp_path}/train.json")
    samples = [reader.read(reader.rows[0], turn) for turn in range(2)]
    assert [sample.instruction for sample in samples] == ["remove cup", "no cup"]
    assert samples[0].reply == prompts.GENERIC_REPLY and samples[0].object_mask is None
    assert np.array_equal(samples[0].target, backdrop(0))
    drawn = Edits(f"reasonedit:{tmp_path}/train.json", 64)[0]
    assert drawn.mask is None and drawn.target.shape == (64, 64, 3)


@pytest.fixture
def advanced(tmp_path) -> dict:
    """The photograph is twice as large as the picture without the cup; run lengths are of it."""
    pytest.importorskip("pycocotools")
    large = np.asarray(Image.fromarray(scene()).resize((2 * WIDTH, 2 * HEIGHT)))
    save(large, tmp_path / "origin" / "7.jpg", quality=95)
    save(backdrop(0), tmp_path / "target.png")
    mask = np.asarray(Image.fromarray(where(BOX)).resize((2 * WIDTH, 2 * HEIGHT), 0))
    objects = [
        {"class_name": "red_cup", "bbox": [20, 24, 80, 72], "segmentation": runs(mask)},
        {"class_name": "red_cup", "bbox": [0, 0, 9, 9], "segmentation": runs(~mask)},
    ]
    write({"annotations": objects, "box_format": "xyxy"}, tmp_path / "masks" / "7.json")
    return {
        "origin_img_path": "origin/7.jpg", "target_img_path": "target.png", "task_type": "remove",
        "instruction": ["remove the red cup"], "class_origin": "red_cup", "class_target": "",
        "bbox": [20, 24, 60, 48], "segmentation": runs(mask), "mask_json_path": " ",
        "qwen_VIE_SC": None,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["remove", "remove by its mask file", "add"])
def test_advancededit_brings_pairs_of_two_sizes_together(form, advanced, tmp_path):
    row = dict(advanced)
    if form == "remove by its mask file":
        del row["segmentation"]
        row["mask_json_path"] = "masks/7.json"
    if form == "add":
        names = ("origin_img_path", "target_img_path")
        row |= dict(zip(names, (row[names[1]], row[names[0]]), strict=True))
        row |= {"task_type": "add", "class_origin": "", "class_target": "red_cup"}
        row["instruction"] = ["add the red cup"]
    write({"0": row}, tmp_path / "json" / "7.json")
    (sample,) = read(f"advancededit:{tmp_path}/json,{tmp_path}")
    assert sample.scene.shape == sample.target.shape == (HEIGHT, WIDTH, 3)
    overlap = (sample.object_mask & where(BOX)).sum() / (sample.object_mask | where(BOX)).sum()
    assert overlap == 1
    expected = ("background", "red cup") if form == "add" else ("red cup", "background")
    assert (sample.label, sample.result_label) == expected
    assert sample.operation == form.split()[0] and sample.caption == row["instruction"][0]


def test_ipr2pr_reads_lines_where_the_pickle_says(tmp_path):
    lines, offset = [], 0
    items, expressive = [], {}
    for number in range(3):
        pictures = (with_box(backdrop(number), BOX, RED), backdrop(number))
        line = b"\t".join(base64.b64encode(png(each)) for each in pictures) + b"\n"
        items.append(
            [
                {
                    "input": f"{number}",
                    "answer": "a",
                    "instruction": f"no {number}",
                    "lineidx": offset,
                }
            ]
        )
        expressive[f"{number}"] = {"instruction": "", "expressive": f"a bare table {number}"}
        lines.append(line)
        offset += len(line)
    (tmp_path / "ipr2pr.tsv").write_bytes(b"".join(lines))
    (tmp_path / "ipr2pr.pkl").write_bytes(pickle.dumps({"task": items[::-1]}))
    write(expressive, tmp_path / "ipr2pr_expressive.json")
    samples = read(f"ipr2pr:{tmp_path}")
    assert [sample.instruction for sample in samples] == ["no 2", "no 1", "no 0"]
    assert [sample.reply for sample in samples] == [f"a bare table {n}" for n in (2, 1, 0)]
    for number, sample in zip((2, 1, 0), samples, strict=True):
        assert np.array_equal(sample.target, backdrop(number)) and sample.mask is None


def test_instructpix2pix_is_read_from_folders_without_the_last_tenth(tmp_path):
    names = [[f"{number:07d}", ["11", "12"] if number == 0 else ["13"]] for number in range(10)]
    write(names, tmp_path / "seeds.json")
    for name, seeds in names:
        write(
            {"input": "x", "edit": f"edit {int(name)}", "output": "y"},
            tmp_path / name / "prompt.json",
        )
        for seed in seeds:
            save(scene(), tmp_path / name / f"{seed}_0.jpg", quality=95)
            save(backdrop(0), tmp_path / name / f"{seed}_1.jpg", quality=95)
    samples = read(f"instructpix2pix:{tmp_path}")
    assert [sample.instruction for sample in samples[:3]] == ["edit 0", "edit 0", "edit 1"]
    assert len(samples) == 10 and samples[0].target.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(samples[0].target.astype(int) - backdrop(0)).mean() < 4


def test_instructpix2pix_is_read_from_parquet(tmp_path):
    pytest.importorskip("datasets")
    write_pairs(tmp_path, [9, 4])
    reader = data_set(f"instructpix2pix:{tmp_path}")
    assert len(reader.rows) == 13 and reader.rows[10].where == "train-00001.parquet, row 2"
    assert reader.read(reader.rows[10]).instruction == "edit 10"
    assert reader.read(reader.rows[3]).instruction == "edit 3"  # backwards, too


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_mimicit_has_one_or_two_pictures(form, tmp_path):
    pictures = {f"LA_IMG_{n}": base64.b64encode(png(backdrop(n))).decode() for n in range(3)}
    if form == "json":
        file = write(pictures, tmp_path / "LA.json")
    else:
        pandas = pytest.importorskip("pandas")
        file = tmp_path / "LA.parquet"
        pandas.DataFrame({"base64": pictures}).to_parquet(file)
    rows = {
        f"LA_INS_{count}": {
            "instruction": "What?", "answer": "Cup.", "rel_ins_ids": [],
            "image_ids": list(pictures)[:count],
        }
        for count in range(4)
    }  # fmt: skip
    write({"meta": {}, "data": rows}, tmp_path / "LA_instructions.json")
    text = f"mimicit:{tmp_path}/LA_instructions.json,{file}"
    one, two = read(text)
    assert one.task == "ask" and one.subject is None and one.target is None and one.mask is None
    assert np.array_equal(two.scene, backdrop(0)) and np.array_equal(two.subject, backdrop(1))
    assert data_set(text).describe() == {"rows": 2, "rows_with_no_picture_or_more_than_two": 2}


def test_llava_instruct_asks_one_thing_at_a_time(tmp_path):
    save(scene(), tmp_path / "train2017" / "7.jpg", quality=95)
    says = [("human", "What?\n<image>"), ("gpt", "A cup."), ("human", "Whose?"), ("gpt", "Mine.")]
    talk = [{"from": who, "value": text} for who, text in says]
    rows = [
        {"id": "7", "image": "7.jpg", "conversations": talk},
        {"id": "8", "conversations": talk},
    ]
    write(rows, tmp_path / "llava.json")
    reader = data_set(f"llava:{tmp_path}/llava.json,{tmp_path}/train2017")
    samples = [reader.read(reader.rows[0], turn) for turn in range(2)]
    assert [(s.instruction, s.reply) for s in samples] == [("What?", "A cup."), ("Whose?", "Mine.")]
    assert samples[0].task == "ask" and samples[0].mask is None and samples[0].target is None
    assert reader.describe() == {"rows": 1, "rows_without_a_picture": 1}


def test_a_row_of_another_form_is_passed_over_and_named(tmp_path):
    save(scene(), tmp_path / "p" / "7.jpg")
    talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cup."}]
    odd = ({}, {"conversations": 7}, {"conversations": [{}, {}]}, {"conversations": talk[:1]})
    rows = [{"id": "0", "image": "7.jpg", "conversations": talk}]
    rows += [{"id": str(number + 1), "image": "7.jpg", **row} for number, row in enumerate(odd)]
    write(rows, tmp_path / "llava.json")
    edits = Edits(f"llava:{tmp_path}/llava.json,{tmp_path}/p", 32)
    samples = [edits[index] for index in range(5)]
    assert {sample.reply for sample in samples} == {"A cup."}
    assert {where for s in samples for where, _ in s.skipped} == {f"id {n}" for n in range(1, 5)}


@pytest.mark.parametrize("endings", [("jpg", "txt", "json"), ("jpg", "json")])
def test_cc12m_is_read_from_img2datasets_tars(endings, tmp_path):
    pytest.importorskip("datasets")
    write_captions(tmp_path, [5, 3], endings)
    samples = read(f"cc12m:{tmp_path}")
    assert [sample.caption for sample in samples] == [f"caption {n}" for n in range(8)]
    assert samples[0].target is None and samples[0].mask is None and samples[0].task == "edit"
    write({"successes": 4}, tmp_path / "00000_stats.json")  # taken at its word, not counted
    assert len(data_set(f"cc12m:{tmp_path}").rows) == 7


@pytest.mark.parametrize("header", ["", "url\tcaption\n"])
def test_cc12m_is_read_from_its_lines_with_a_header_and_without(header, tmp_path):
    lines = "https://a/1.jpg\ta cup\nhttps://a/2.jpg\tzwei Stühle\nno tab\n"
    (tmp_path / "cc12m.tsv").write_text(header + lines, encoding="utf-8")
    reader = data_set(f"cc12m:{tmp_path}/cc12m.tsv")
    captions = [reader.read(row).caption for row in list(reader.rows)[:2]]
    assert captions == ["a cup", "zwei Stühle"]
    with pytest.raises(FlexEditError, match="no tab between address and caption"):
        reader.read(reader.rows[2])
    assert Edits(reader, 32)[0].mask is None


@pytest.mark.parametrize("place", ["a/*.parquet", "a", "b", "b/*.tar"])
def test_shards_may_lie_in_a_bucket(place, tmp_path):
    pytest.importorskip("datasets")
    import fsspec

    write_pairs(tmp_path / "a", [9, 4])
    write_captions(tmp_path / "b", [8, 5])
    bucket = fsspec.filesystem("memory")
    for file in tmp_path.rglob("*.*"):
        bucket.pipe(f"/bucket/{file.relative_to(tmp_path)}", file.read_bytes())
    name, word = ("instructpix2pix", "edit") if place[0] == "a" else ("cc12m", "caption")
    samples = read(f"{name}:memory://bucket/{place}")
    assert [sample.caption for sample in samples] == [f"{word} {number}" for number in range(13)]


def test_jsonl_may_have_any_name_and_an_edit_no_mask(tmp_path):
    save(scene(), tmp_path / "a.png")
    save(backdrop(0), tmp_path / "b.png")
    row = {"scene": "a.png", "target": "b.png", "instruction": "remove the cup", "subject": "a.png"}
    (tmp_path / "strat.jsonl").write_text(json.dumps(row))
    (sample,) = read(f"jsonl:{tmp_path}/strat.jsonl")
    assert sample.mask is None and sample.subject.shape == scene().shape
    assert Edits(f"jsonl:{tmp_path}/strat.jsonl", 64)[0].mask is None


@pytest.mark.parametrize("color", COLORS)
def test_what_is_painted_can_be_read_back(color):
    """By half, as SmartEdit does: from the picture alone"""
    import torch

    from flexedit.data.sample import pictures

    alone = scene()
    painted = alone.copy()
    mixed = 0.5 * painted[where(OTHER)] + 0.5 * 255 * np.array(COLORS[color])
    painted[where(OTHER)] = mixed.astype(np.uint8)
    mask = read_painted(pictures([alone]), pictures([painted]))[0] > 0.5
    truth = torch.from_numpy(where(OTHER))
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95


def test_segmentation_is_asked_for_in_many_ways_languages_and_colours(coco):
    edits = Edits(f"coco-instances:{coco}/instances.json,{coco}/train", 64)
    samples = [edits[index] for index in range(60)]
    assert len({sample.instruction for sample in samples}) > 25
    assert any(not sample.instruction.isascii() for sample in samples)
    for sample in samples:
        color = sample.caption.rsplit(" ", 1)[1]
        moved = np.abs(sample.target.astype(int) - sample.scene).max(-1) > 0
        assert color in COLORS and not (moved & ~sample.object_mask).any() and moved.any()
        assert sample.label in sample.caption and sample.mask.any()
    assert {sample.label for sample in samples} == {"cup", "chair"}


def test_every_language_has_every_colour():
    words = sayings()
    assert tuple(words["colors"]) == tuple(COLORS)
    for language in words["marked"]:
        assert len(set(language["colors"])) == len(COLORS), language["language"]
        assert all("{color}" in saying for saying in language["say"])
    assert len(words["marked"]) > 5
    rng = np.random.default_rng(0)
    assert "the left cup" in segment_instruction("the left cup", "red", rng)


def test_paths_of_a_mixture_start_in_its_folder():
    here = Path("/data")
    assert placed("own", here) == "/data/own"
    assert placed("refcoco:a.p,b.json,/c,train", here) == "refcoco:/data/a.p,/data/b.json,/c,train"
    assert placed("cc12m:s3://bucket/*.tar", here) == "cc12m:s3://bucket/*.tar"


@pytest.mark.parametrize("name", DATA_SETS)
def test_what_is_not_there_is_said_in_one_sentence(name, tmp_path):
    usage = DATA_SETS[name][0].partition("[")[0]
    paths = [str(tmp_path / f"none{Path(path).suffix}") for path in usage.split(",")]
    with pytest.raises(FlexEditError, match="none"):
        len(data_set(f"{name}:{','.join(paths)}").rows)
    with pytest.raises(FlexEditError, match=f"{name}: has other paths than {name}:"):
        data_set(f"{name}:")


NONSENSE = ([], {}, 7, [7], [[]], {"a": 7}, {"data": 7}, {"data": {"a": 7}}, {"task": [7]})


@pytest.mark.parametrize("content", NONSENSE, ids=json.dumps)
@pytest.mark.parametrize("name", sorted(set(DATA_SETS) - {"magicbrush", "coco-stuff", "cc12m"}))
def test_an_index_of_another_form_is_refused_or_has_no_good_row(name, content, tmp_path):
    pytest.importorskip("pycocotools")
    paths = []
    for number, path in enumerate(DATA_SETS[name][0].partition("[")[0].split(",")):
        file = tmp_path / f"{number}{Path(path).suffix or '/index.json'}"
        write(content, file)
        paths.append(str(file if Path(path).suffix else file.parent))
    for file in ("seeds.json", "ipr2pr_expressive.json"):
        write(content, tmp_path / "0" / file)
    (tmp_path / "0" / "ipr2pr.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(FlexEditError):
        Edits(f"{name}:{','.join(paths)}", 32)[0]
