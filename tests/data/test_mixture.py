"""Counting: nothing is repeated, nothing skipped, whoever reads."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from flexedit.data.edits import Edits
from flexedit.data.mixture import WEIGHTS, Mixture, MixtureConfig, samples_from
from flexedit.data.order import CHUNK, LANES, LENGTH, Pattern
from flexedit.data.readers import DATA_SETS, data_set, usage
from flexedit.errors import FlexEditError
from flexedit.training.batch import loader
from flexedit.validation import validated
from tests.data.shards import picture, write_pairs

SIZE = 8


def test_every_data_set_has_its_share_and_every_row_its_turn():
    sizes = [400, 9000, 300, 20]
    pattern = Pattern(list(WEIGHTS.values()), sizes, seed=3)
    numbers = [[] for _ in sizes]
    rows = [Counter() for _ in sizes]
    for index in range(6 * LENGTH):
        draw = pattern[index]
        numbers[draw.source].append(draw.number)
        stretch = draw.stretch(sizes[draw.source])
        rows[draw.source][stretch[draw.place % len(stretch)]] += 1
    for drawn, counted, weight, size in zip(numbers, rows, WEIGHTS.values(), sizes, strict=True):
        assert drawn == list(range(len(drawn)))  # none is left out
        assert len(drawn) / LENGTH / 6 == pytest.approx(weight / 100, abs=1e-4)
        assert set(counted) == set(range(size))  # as a stream, too
        assert max(counted.values()) - min(counted.values()) <= 1 + len(drawn) // size // 20


def test_neighbours_are_of_one_lane():
    """What one of 8 processes with 4 workers reads of a batch of 128 is from few lanes"""
    pattern = Pattern([1], [100_000], seed=0)
    lanes = [set() for _ in range(4)]
    for step in range(40):
        for row in range(3 * CHUNK, 4 * CHUNK):  # the fourth process's share
            lanes[step % 4].add(pattern[128 * step + row].first)
    assert all(len(each) <= LANES // 8 for each in lanes)


def test_a_weight_that_no_row_would_come_of_is_refused():
    with pytest.raises(FlexEditError, match="is 1e-06 of all"):
        Pattern([1, 1e-6], [10, 10], 0)


def own(folder: Path, names) -> Path:
    """Edits that are told apart by their instruction"""
    folder.mkdir(parents=True)
    Image.new("L", (SIZE, SIZE), 255).save(folder / "mask.png")
    rows = []
    for number, name in enumerate(names):
        Image.fromarray(picture(number)).save(folder / f"{name}.png")
        rows.append(
            {"scene": f"{name}.png", "target": f"{name}.png", "mask": "mask.png",
             "instruction": name}
        )  # fmt: skip
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A mixture of an indexed data set and a stream of 1,100 rows in shards of several sizes"""
    folder = tmp_path_factory.mktemp("mixed")
    own(folder / "own", [f"own {number}" for number in range(30)])
    write_pairs(folder / "pairs", [400, 17, 383, 300], row_group_size=50)
    content = {
        "data": [
            {"source": "own", "group": "own"},
            {"source": "instructpix2pix:pairs", "group": "edit"},
        ],
        "weights": {"own": 25, "edit": 75},
    }
    (folder / "mixture.yaml").write_text(yaml.safe_dump(content))
    return folder / "mixture.yaml"


def read(mixture, batch_size: int, steps: range, ranks: int = 1, num_workers: int = 0):
    """The instructions of all batches, whoever read them"""
    shares = [
        loader(mixture, batch_size, steps.start, steps.stop, rank=rank, ranks=ranks,
               num_workers=num_workers)
        for rank in range(ranks)
    ]  # fmt: skip
    return [
        text
        for parts in zip(*shares, strict=True)
        for part in parts
        for text in part.request.instructions
    ]


def test_any_number_of_processes_and_workers_and_any_resume_see_the_same_rows(mixed):
    pytest.importorskip("datasets")
    whole = read(samples_from(str(mixed), SIZE), 32, range(50))
    assert read(samples_from(str(mixed), SIZE), 32, range(50), ranks=4) == whole
    assert read(samples_from(str(mixed), SIZE), 32, range(50), ranks=2, num_workers=2) == whole
    resumed = read(samples_from(str(mixed), SIZE), 32, range(37, 50), num_workers=1)
    assert resumed == whole[37 * 32 :]
    assert read(samples_from(str(mixed), SIZE, seed=1), 32, range(2)) != whole[:64]
    counted = Counter(whole)
    pairs = {text: count for text, count in counted.items() if text.startswith("edit")}
    assert set(pairs) == {f"edit {number}" for number in range(1100)}
    assert set(pairs.values()) == {1, 2}  # 1,200 draws of 1,100 rows
    assert {counted[f"own {number}"] for number in range(30)} <= {13, 14}  # 400 of 30
    assert len({text for text in whole[:200] if text.startswith("edit")}) > 100


def test_a_stream_gives_its_own_rows(mixed):
    pytest.importorskip("datasets")
    edits = Edits(f"instructpix2pix:{mixed.parent / 'pairs'}", SIZE)
    for index in (0, 300, 5):
        sample = edits[index]
        number = int(sample.instruction.removeprefix("edit "))
        assert (sample.scene == picture(number)[0, 0]).all() and sample.mask is None


@pytest.fixture
def spoilt(tmp_path) -> Path:
    """120 rows, of which three are bad"""
    write_pairs(tmp_path / "good", [117])
    import pyarrow as pa
    import pyarrow.parquet as pq

    bad = {"bytes": b"no picture", "path": None}
    table = pa.table(
        {"original_image": [bad] * 3, "edit_prompt": ["x"] * 3, "edited_image": [bad] * 3}
    )
    pq.write_table(table, tmp_path / "good" / "bad.parquet")
    return tmp_path / "good"


def test_bad_rows_are_passed_over_counted_and_named_at_the_end(spoilt, caplog):
    pytest.importorskip("datasets")
    edits = Edits(f"instructpix2pix:{spoilt}", SIZE)
    texts = read(edits, 40, range(6), num_workers=2)
    assert {f"edit {number}" for number in range(117)} <= set(texts) and len(texts) == 240
    said = caplog.text
    assert "3 bad rows" in said and all(f"bad.parquet, row {row}" in said for row in (1, 2, 3))
    assert "instructpix2pix" in said and "cannot be read as a picture" in said


def test_too_many_bad_rows_stop_with_the_list(spoilt):
    pytest.importorskip("datasets")
    edits = Edits(f"instructpix2pix:{spoilt}", SIZE, max_bad=2)
    with pytest.raises(FlexEditError, match=r"ore than 2 rows.*bad\.parquet, row|3 bad rows"):
        read(edits, 40, range(6), num_workers=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": []}, "data is empty"),
        ({"weights": {"edit": -1}}, "the weight of edit is -1"),
        ({"weights": {"edit": 1}}, "no weights for own"),
        ({"data": [{"source": "none", "group": "own"}]}, "none.*cannot be read"),
        ({"colour": 1}, "unknown setting colour"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(mixed, tmp_path, change, message):
    content = yaml.safe_load(mixed.read_text()) | change
    file = mixed.with_name("other.yaml")
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(FlexEditError, match=message):
        samples_from(str(file), SIZE)


def test_data_sets_of_a_group_share_by_weight_or_by_size(tmp_path):
    for name, count in (("a", 30), ("b", 10)):
        own(tmp_path / name, [f"{name} {number}" for number in range(count)])
    content = {"data": [{"source": name, "group": "own"} for name in "ab"]}
    for weights, share in (((0, 0), 0.75), ((1, 4), 0.2)):
        for part, weight in zip(content["data"], weights, strict=True):
            part["weight"] = weight
        (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
        mixture = samples_from(str(tmp_path / "m.yaml"), SIZE)
        assert isinstance(mixture, Mixture)
        drawn = [mixture.pattern[index].source for index in range(LENGTH)]
        assert np.mean(np.array(drawn) == 0) == pytest.approx(share, abs=1e-3)
    content["data"][0]["weight"] = 0
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(FlexEditError, match="give all of them one, or none"):
        samples_from(str(tmp_path / "m.yaml"), SIZE)


def test_the_page_on_data_has_every_data_set_and_a_mixture_that_is_one():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for name in DATA_SETS:
        for form in usage(name).split(" or "):
            assert f"`{form}`" in page or f"`{name}:{form}`" in page, form
    (content,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config = validated(MixtureConfig, yaml.safe_load(content), "the page")
    assert config.weights == WEIGHTS and config.max_bad == 100
    assert all(data_set(part.source) for part in config.data if ":" in part.source)


def test_a_mixture_with_another_seed_reads_no_file_again(mixed):
    pytest.importorskip("datasets")
    one, other = samples_from(str(mixed), SIZE), samples_from(str(mixed), SIZE, seed=7)
    again = one.seeded(7)
    assert [part.reader for part in again.parts] == [part.reader for part in one.parts]
    said = [[it[index].instruction for index in range(40)] for it in (one, other, again)]
    assert said[1] == said[2] != said[0]
    own = one.parts[0]
    assert own.seeded(7).reader is own.reader and own.seeded(7).seed == 7


def test_data_that_vanishes_is_named_in_a_sentence(tmp_path):
    pytest.importorskip("datasets")
    lines = tmp_path / "cc12m.tsv"
    lines.write_text("http://x/1.jpg\ta cup\nhttp://x/2.jpg\ta dog\n")
    write_pairs(tmp_path / "pairs", [4])
    captions, pairs = (
        Edits(f"{source}:{tmp_path}/{place}", SIZE)
        for source, place in (("cc12m", "cc12m.tsv"), ("instructpix2pix", "pairs"))
    )
    lines.unlink()
    with pytest.raises(FlexEditError, match=r"cc12m, row \d can no longer be read .*Run it again"):
        next(loader(captions, 1, 0, 1))
    shutil.rmtree(tmp_path / "pairs")
    with pytest.raises(FlexEditError, match=r"train-00000\.parquet cannot be read"):
        next(loader(pairs, 1, 0, 1))
