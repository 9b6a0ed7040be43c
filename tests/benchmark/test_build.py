import dataclasses
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flexedit import masks
from flexedit.benchmark.build import build, caption, plan, source_from
from flexedit.benchmark.cases import INDEX, META, OPERATIONS, Benchmark, Case
from flexedit.benchmark.sources import WorldSource
from flexedit.data.world import world as synthetic
from flexedit.errors import FlexEditError
from flexedit.masks import walk


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Benchmark:
    return build(tmp_path_factory.mktemp("world") / "fsmi", seed=3, num_single=24, num_multi=33)


# The plan


@pytest.mark.parametrize("counts", [(80, 125), (0, 17), (5, 0), (24, 32)])
def test_kinds_are_even_to_one_in_each_group(counts):
    slots = plan(*counts)
    for group, count in zip(("single", "multi"), counts, strict=True):
        kinds = Counter(slot.kind for slot in slots if slot.group == group)
        assert sum(kinds.values()) == count
        numbers = [kinds[kind] for kind in masks.KINDS]
        assert max(numbers) - min(numbers) <= 1


def test_operations_and_subjects_are_even_in_all_and_within_every_kind():
    slots = plan(80, 125)
    for group, operations in (("single", OPERATIONS), ("multi", ("add", "replace"))):
        of_group = [slot for slot in slots if slot.group == group]
        done = Counter(slot.operation for slot in of_group)
        assert set(done) == set(operations) and max(done.values()) - min(done.values()) <= 1
        cells = Counter((s.kind, s.operation, s.subject_setting) for s in of_group)
        assert len(cells) == 8 * (3 if group == "single" else 4)
        assert max(cells.values()) - min(cells.values()) <= 1
    assert {slot.subject_setting for slot in slots if slot.group == "single"} == {None}


# Cases of the synthetic world


def test_the_same_arguments_write_the_same_bytes(world, tmp_path):
    again = build(tmp_path / "again", seed=3, num_single=24, num_multi=33)
    other = build(tmp_path / "other", seed=4, num_single=24, num_multi=33)
    assert digests(again.folder) == digests(world.folder)
    assert digests(other.folder) != digests(world.folder)


def test_a_world_benchmark_is_what_was_planned(world):
    assert len(world.cases) == 57 and {case.source for case in world.cases} == {"world"}
    for case, slot in zip(world.cases, plan(24, 33), strict=True):
        wanted = (slot.group, slot.kind, slot.operation, slot.subject_setting)
        assert (case.group, case.kind, case.operation, case.subject_setting) == wanted
    assert {case.setting for case in world.cases} == {"indoor", "outdoor", "none"}
    assert {key: world.meta[key] for key in ("source", "seed", "num_single", "num_multi")} == {
        "source": "world", "seed": 3, "num_single": 24, "num_multi": 33,
    }  # fmt: skip


def test_the_region_is_where_the_truth_differs(world):
    for case in world.cases:
        scene, truth = world.picture(case, "scene"), world.picture(case, "truth")
        region = world.picture(case, "region")
        assert region.any() and (region == (scene != truth).any(-1)).all()


def test_the_full_mask_is_the_object_meant_or_what_is_added(world):
    for case in world.cases:
        region, full = world.picture(case, "region"), world.picture(case, "full_mask")
        mask = world.picture(case, "mask")
        assert (full & region).sum() > 0.9 * full.sum()
        assert (mask & full).any() and (mask != full).any()


def test_labels_say_what_is_there_before_and_after(world):
    for case in world.cases:
        assert (case.label == "background") == (case.operation == "add")
        assert (case.result_label == "background") == (case.operation == "remove")
        assert case.label != case.result_label and case.instruction
        assert case.caption == caption(case.result_label)


def test_the_index_says_at_which_turn_a_shape_was_drawn(monkeypatch, tmp_path):
    turns, rasterise = [], walk.rasterise

    def watched(*shape, rotation, **how):
        turns.append(rotation)
        return rasterise(*shape, rotation=rotation, **how)

    monkeypatch.setattr(walk, "rasterise", watched)
    last = build(tmp_path / "out", num_single=3, num_multi=0).cases[-1]
    assert last.operation == "remove" and last.orientation == round(turns[-1] % 360, 1)


def test_datasets_reads_the_index(world, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = str(world.folder / INDEX)
    rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path))
    assert rows.num_rows == len(world.cases)
    assert rows.column_names == [field.name for field in dataclasses.fields(Case)]
    assert Counter(rows["kind"]) == Counter(case.kind for case in world.cases)


# The folder


def test_a_benchmark_is_replaced_only_while_nobody_has_reviewed_it(tmp_path):
    out = tmp_path / "fsmi"
    build(out, num_single=2, num_multi=0)
    made = build(out, num_single=1, num_multi=0)
    assert len(made.cases) == 1 and len(digests(out)) == 2 + 5  # nothing of the former is left
    made.rewrite([dataclasses.replace(made.cases[0], review="accepted")])
    with pytest.raises(FlexEditError, match="1 cases that people have reviewed"):
        build(out, num_single=2, num_multi=0)
    assert Benchmark(out).cases[0].review == "accepted"


@pytest.mark.parametrize("file", ["notes.txt", "runs/results.jsonl"])
def test_a_folder_with_anything_else_is_left_alone(tmp_path, file):
    mine = tmp_path / "mine"
    (mine / file).parent.mkdir(parents=True)
    (mine / file).write_text("mine")
    with pytest.raises(FlexEditError, match="is not a benchmark"):
        build(mine, num_single=1, num_multi=0)
    (mine / META).write_text('{"format": 1}')
    with pytest.raises(FlexEditError, match=f"also holds {Path(file).parts[0]}"):
        build(mine, num_single=1, num_multi=0)
    assert (mine / file).read_text() == "mine"


def test_an_empty_folder_is_used(tmp_path):
    assert len(build(tmp_path, num_single=1, num_multi=0).cases) == 1


class Failing(WorldSource):
    def samples(self, slots, seed):
        yield from super().samples(slots[:1], seed)
        raise FlexEditError("The source ran dry.")


def test_a_failed_build_leaves_nothing_and_takes_nothing(tmp_path):
    with pytest.raises(FlexEditError, match="ran dry"):
        build(tmp_path / "new", num_single=2, num_multi=0, source=Failing())
    assert not list(tmp_path.iterdir())
    build(tmp_path / "old", num_single=1, num_multi=0)
    before = digests(tmp_path)
    with pytest.raises(FlexEditError, match="ran dry"):
        build(tmp_path / "old", num_single=2, num_multi=0, source=Failing())
    assert digests(tmp_path) == before


class Repeating(WorldSource):
    def samples(self, slots, seed):
        for sample in super().samples(slots, seed):
            yield dataclasses.replace(sample, name="same")


def test_two_cases_of_one_name_are_an_error(tmp_path):
    with pytest.raises(FlexEditError, match="world-same"):
        build(tmp_path / "new", num_single=2, num_multi=0, source=Repeating())


@pytest.mark.parametrize("counts", [(0, 0), (-1, 5), (5, -1)])
def test_there_must_be_something_to_build(tmp_path, counts):
    with pytest.raises(FlexEditError, match="nothing to build"):
        build(tmp_path / "new", num_single=counts[0], num_multi=counts[1])


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FlexEditError, match="cannot be written"):
        build(tmp_path / "file" / "new", num_single=1, num_multi=0)


@pytest.mark.parametrize("text", ["word", "coco", "llava:a.json,b", "world:", ""])
def test_an_unknown_source_is_explained(text):
    with pytest.raises(FlexEditError, match="give world, world:STYLE, coco:ANNOTATIONS"):
        source_from(text)


@pytest.mark.parametrize("text", ["coco:a.json,b", "magicbrush:"])
def test_other_paths_than_a_data_set_has_are_explained(text):
    with pytest.raises(FlexEditError, match=f"{text} has other paths than {text[:4]}"):
        source_from(text)


def test_an_unknown_style_is_explained():
    with pytest.raises(FlexEditError, match=r"Unknown styles 64; choose from fluent, .*twemoji"):
        source_from("world:64")


def test_a_style_is_the_only_one_that_scenes_and_subjects_are_drawn_in(monkeypatch):
    drawn = []
    draw = synthetic.draw
    monkeypatch.setattr(
        synthetic, "draw", lambda look, size: drawn.append(look) or draw(look, size)
    )
    slots = [slot for slot in plan(0, 8) if slot.operation == "add"]
    source = source_from("world:twemoji", 96)
    samples = list(source.samples(slots, seed=0))
    canonical = "fluent"  # what is only named looks the same in every style
    assert {look.style for look in drawn} - {canonical} == {"twemoji"}
    assert len(samples) == len(slots) and all(sample.subject is not None for sample in samples)
    assert {sample.scene.shape for sample in samples} == {(96, 96, 3)}
    assert source.describe() == {"split": "heldout", "size": 96, "style": "twemoji"}


def test_cases_may_be_framed_as_crops_and_say_so(tmp_path):
    whole, crop = (
        build(tmp_path / framing, num_single=16, num_multi=0, framing=framing)
        for framing in ("whole", "crop")
    )
    whole_share, crop_share = (
        np.mean([benchmark.picture(case, "full_mask").mean() for case in benchmark.cases])
        for benchmark in (whole, crop)
    )
    assert crop_share > 1.2 * whole_share
    assert "framing" not in whole.meta and crop.meta["framing"] == "crop"


def test_sources_are_named_on_the_command_line():
    coco = source_from("coco:a/instances.json,pictures,edits.jsonl").reader
    assert (coco.annotations, coco.pictures) == (Path("a/instances.json"), Path("pictures"))
    assert source_from("magicbrush:C:/data").reader.folder == Path("C:/data")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("fox", "a photo of a fox"),
        ("airplane", "a photo of an airplane"),
        ("background", "a photo of the background"),
        ("", ""),
    ],
)
def test_a_caption_says_what_the_place_shows(label, expected):
    assert caption(label) == expected
