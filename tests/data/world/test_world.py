import dataclasses

import numpy as np
import pytest
import torch

from flexedit import masks, prompts
from flexedit.data.sample import Sample
from flexedit.data.world import (
    CLASSES,
    FULL_MASK,
    OPERATIONS,
    World,
    all_styles,
    assets,
    backgrounds,
)
from flexedit.data.world.world import MIN_VISIBLE
from flexedit.errors import FlexEditError


def fingerprint(sample: Sample) -> list:
    values = dataclasses.astuple(sample)
    return [v.tobytes() if isinstance(v, np.ndarray) else v for v in values]


def place(name: str) -> str:
    """What a photograph shows, without the number of the view."""
    return name.rsplit("-", 1)[0] if name.startswith("panorama") else name


def some(operation: str, count: int = 25, **settings) -> list[Sample]:
    world = World(operations={operation: 1.0}, **settings)
    return [world[index] for index in range(count)]


def test_an_index_always_gives_the_same_sample():
    first, second = World(seed=3), World(seed=3)
    second[5]
    assert fingerprint(first[7]) == fingerprint(second[7])


@pytest.mark.parametrize("other", [{"seed": 4}, {"split": "heldout"}])
def test_seeds_and_splits_are_other_worlds(other):
    assert fingerprint(World(seed=3)[0]) != fingerprint(World(**{"seed": 3} | other)[0])


@pytest.mark.parametrize(
    ("split", "index", "operation", "kind", "instruction", "area"),
    [
        ("train", 0, "insert", "rectangle open", "put the object of the second picture here", 239),
        ("train", 1, "insert", "circle", "place the light bulb from the second picture here", 361),
        ("train", 2, "replace", "rectangle", "replace it with a dog", 75),
        ("heldout", 0, "insert", "full mask", "insert the subject of [pic2] here", 374),
        ("heldout", 1, "swap", "full mask", "replace it with the object in [pic2]", 484),
        ("heldout", 3, "remove", "irregular", "remove the marked object", 98),
    ],
)  # fmt: skip
def test_a_seed_names_the_world_it_always_has(split, index, operation, kind, instruction, area):
    sample = World(64, split, seed=5)[index]
    assert (sample.operation, sample.kind, sample.instruction) == (operation, kind, instruction)
    assert sample.mask.sum() == pytest.approx(area, abs=3)  # an edge pixel may round either way


def test_a_world_can_have_only_some_kinds_of_masks():
    samples = [World(kinds=["triangle", "circle open"])[index] for index in range(30)]
    assert {sample.kind for sample in samples} == {"triangle", "circle open"}
    assert all(World(kinds=[masks.RANDOM_WALK])[i].rotation is None for i in range(10))


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "ask"])
def test_a_full_mask_is_the_object_meant_or_the_one_that_will_stand_there(operation):
    for sample in some(operation, 5, kinds=[FULL_MASK]):
        assert (sample.mask == sample.object_mask).all() and sample.kind == FULL_MASK


def test_a_turn_is_known_for_every_shape_but_for_nothing_else():
    for sample in (World()[index] for index in range(80)):
        assert (sample.rotation is None) >= (sample.kind in (masks.RANDOM_WALK, FULL_MASK))
    turned = [World(kinds=["rectangle"])[index].rotation for index in range(40)]
    assert sum(turn is None for turn in turned) <= 4  # objects too thin or crowded
    assert np.ptp([turn for turn in turned if turn is not None]) > 40


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_result_label_is_what_stands_there_afterwards(operation):
    for sample in some(operation, 12):
        if operation == "remove":
            assert sample.result_label == prompts.BACKGROUND
        elif operation in ("add", "insert", "replace", "swap"):
            assert sample.result_label in CLASSES and sample.result_label in sample.caption
            assert sample.result_label != sample.label
        else:
            assert sample.result_label == sample.label


def test_scenes_say_where_they_are_and_subjects_how_busy():
    shown = {assets.photo_setting(name) for name in assets.photo_names("heldout")}
    samples = some("swap", 60, split="heldout")
    assert {sample.setting for sample in samples} == shown == {"indoor", "outdoor", "none"}
    assert {sample.subject_setting for sample in samples} == {"simple", "complex"}
    assert {sample.subject_setting for sample in some("add", 5)} == {None}


@pytest.mark.parametrize("operation", ["insert", "swap"])
def test_the_class_map_of_a_subject_is_where_it_stands(operation):
    for sample in some(operation, 8):
        shown, counts = np.unique(sample.subject_classes, return_counts=True)
        assert shown.tolist() == [0, 1 + CLASSES.index(sample.result_label)]
        assert 0.05 < counts[1] / counts.sum() < 0.75
    assert some("remove", 1)[0].subject_classes is None


@pytest.mark.parametrize("split", backgrounds.SPLITS)
def test_a_split_uses_no_photograph_of_the_other(split, monkeypatch):
    train, heldout = (set(assets.photo_names(split)) for split in backgrounds.SPLITS)
    assert len(heldout) >= 8 and not train & heldout
    assert not {place(name) for name in train} & {place(name) for name in heldout}
    used = set()

    def watched(name: str, size: int) -> tuple[np.ndarray, ...]:
        used.add(name)
        return assets.photo_scales(name, size)

    monkeypatch.setattr(backgrounds, "photo_scales", watched)
    world = World(split=split)
    for index in range(80):
        world[index]
    assert used and used <= (train if split == "train" else heldout)


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_works_at_every_size(operation, size):
    for sample in some(operation, 4, size=size):
        assert sample.scene.shape == (size, size, 3) and sample.scene.dtype == np.uint8
        assert sample.mask.shape == (size, size) and sample.mask.dtype == bool
        assert sample.mask.any() and sample.kind in (*masks.KINDS, masks.RANDOM_WALK, FULL_MASK)
        assert (sample.subject is not None) == (operation in ("insert", "swap"))
        assert (sample.target is None) == (operation == "ask") == (sample.region is None)
        assert sample.task == {"segment": "segment", "ask": "ask"}.get(operation, "edit")
        assert sample.instruction and "{" not in sample.instruction + sample.caption


def test_objects_fill_more_of_a_crop_and_are_sometimes_cut_by_its_edge():
    whole, crop = (
        [
            World(framing=framing, operations={"segment": 1.0})[index].object_mask
            for index in range(80)
        ]
        for framing in ("whole", "crop")
    )
    assert np.mean(crop) > 1.5 * np.mean(whole)
    cut = [mask[[0, -1]].any() or mask[:, [0, -1]].any() for mask in crop]
    assert 8 <= sum(cut) <= 60


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "ask"])
def test_outside_the_region_the_target_is_the_scene(operation):
    for sample in some(operation):
        changed = (sample.scene != sample.target).any(-1)
        assert not changed[~sample.region].any()
        assert changed.sum() > 0.6 * sample.region.sum()


@pytest.mark.parametrize("operation", ["remove", "replace", "swap", "recolor", "segment"])
def test_the_mask_means_the_labelled_object_more_than_any_other(operation):
    for sample in some(operation):
        here = sample.classes[sample.mask]
        counts = np.bincount(here[here > 0], minlength=len(CLASSES) + 1)
        assert CLASSES[counts.argmax() - 1] == sample.label
        assert sample.reply == prompts.naming_reply(sample.label)
        assert (sample.classes[sample.object_mask] == 1 + CLASSES.index(sample.label)).all()
        touched = (sample.mask & sample.object_mask).sum()
        assert touched >= 0.08 * sample.object_mask.sum()


@pytest.mark.parametrize("operation", ["add", "insert"])
def test_adding_happens_at_a_mostly_empty_place(operation):
    for sample in some(operation):
        assert sample.label == prompts.BACKGROUND
        assert (sample.classes[sample.mask] > 0).mean() < 0.3
        rows, columns = np.nonzero(sample.mask)
        found = np.nonzero(sample.object_mask)
        for marked, added in zip((rows, columns), found, strict=True):
            middle = (marked.min() + marked.max()) / 2
            assert abs((added.min() + added.max()) / 2 - middle) <= 2


def test_a_removed_object_leaves_no_trace():
    for sample in some("remove"):
        assert (sample.region >= sample.object_mask).all()
        assert sample.label in sample.caption
        label = CLASSES.index(sample.label) + 1
        assert label in sample.classes and label not in sample.result_classes
        assert (sample.target != sample.scene).any(-1)[sample.object_mask].mean() > 0.9


def test_segmentation_paints_the_whole_object_in_the_named_colour():
    for sample in some("segment"):
        named = sample.caption.rsplit(" ", 1)[1]
        color = np.array(masks.COLORS[named]) * 255
        assert np.abs(sample.target[sample.object_mask] - color).max() < 1
        assert (sample.region == sample.object_mask).all()
        assert named in sample.instruction


def test_painted_objects_are_read_back():
    scores = []
    for sample in some("segment", split="heldout"):
        scene, target = (
            torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
            for picture in (sample.scene, sample.target)
        )
        noise = 0.03 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
        read = masks.read_painted(scene, target + noise)[0].numpy() > 0.5
        scores.append((read & sample.object_mask).sum() / (read | sample.object_mask).sum())
    assert np.mean(scores) > 0.95


def test_objects_stay_mostly_visible_and_distinct():
    world = World()
    for index in range(60):
        assert 1 <= len(set(np.unique(world[index].classes)) - {0}) <= 4
        layers, owner = world._place(range(4), np.random.default_rng(index))
        for number, layer in enumerate(layers, 1):
            assert (owner == number).sum() >= MIN_VISIBLE * np.count_nonzero(layer.solid)


def test_questions_are_answered_truly():
    for sample in some("ask", 200):
        present = {CLASSES[value - 1] for value in np.unique(sample.classes) if value}
        text, answer = sample.instruction, sample.reply
        if text.startswith("is there"):
            name = text.removeprefix("is there ").rstrip("?").split(" ", 1)[1]
            assert answer.startswith("Yes") == (name in present)
        elif text.startswith("is this a"):
            assert answer.startswith("Yes") == text.endswith(f" {sample.label}?")
        elif text.startswith("how many"):
            number = ("no", "one", "two", "three", "four")[len(present)]
            assert f" {number} object" in answer
        else:
            assert answer == prompts.naming_reply(sample.label)


def test_styles_held_out_are_not_trained_on():
    assert set(World().styles) == set(all_styles("train"))
    assert all_styles("heldout") and not set(all_styles("heldout")) & set(World().styles)


def test_every_class_has_several_sprites_and_all_have_a_source():
    sources = assets.sources()
    for label in range(len(CLASSES)):
        assert assets.sprite_count("fluent", label) >= 1
        assert sum(assets.sprite_count(style, label) for style in all_styles("train")) >= 3
    files = {
        str(path.relative_to(assets.ASSETS))
        for path in assets.ASSETS.rglob("*")
        if path.suffix in (".webp", ".jpg")
    }
    listed = {f"backgrounds/{name}" for name in sources["backgrounds"]}
    for style, classes in sources["sprites"].items():
        listed |= {f"sprites/{style}/{name}" for names in classes.values() for name in names}
    assert files == listed
    described = [*sources["backgrounds"].values(), *sources["styles"]]
    assert all(entry["licence"] and entry["author"] for entry in described)
    assert sum((assets.ASSETS / name).stat().st_size for name in files) < 2.5e6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "Unknown split 'test'"),
        ({"size": 8}, "size is 8"),
        ({"framing": "wide"}, "Unknown framing 'wide'; choose whole or crop"),
        ({"operations": {"explode": 1.0}}, "Unknown operations explode"),
        ({"operations": {"remove": 0.0}}, "weights"),
        ({"styles": ["ascii"]}, "Unknown styles ascii"),
        ({"kinds": ["circle", "star"]}, "kinds are circle, star; choose from"),
        ({"kinds": []}, "kinds are none; choose from"),
    ],
)
def test_a_world_that_cannot_be_is_explained(settings, message):
    with pytest.raises(FlexEditError, match=message):
        World(**settings)
