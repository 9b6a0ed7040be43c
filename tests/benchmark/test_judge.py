import json

import numpy as np
import pytest
import torch

from flexedit.benchmark import judge as module
from flexedit.benchmark.judge import (
    ANSWERS,
    FACTS,
    FOLDER,
    SIDE,
    SURE,
    UNCLEAR,
    WEIGHTS,
    Judge,
    choose,
    crop,
    window_around,
)
from flexedit.data.world import World
from flexedit.data.world.assets import CLASSES
from flexedit.errors import FlexEditError
from flexedit.prompts import BACKGROUND
from tools.judge import OPERATIONS, spoil, truth_of


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def rows(operation: str, count: int, size: int = 64, seed: int = 5):
    world = World(size, "heldout", seed, operations={operation: 1.0})
    return [world[index] for index in range(count)]


# The shipped judge


def test_the_shipped_judge_is_small_and_half_precision():
    assert (FOLDER / WEIGHTS).stat().st_size <= 1_000_000
    assert sum(value.numel() for value in Judge.load().network.parameters()) <= 500_000


def test_its_facts_say_what_it_is_how_it_was_made_and_how_good_it_is(judge):
    facts = judge.facts
    assert facts["classes"] == list(ANSWERS) and len(ANSWERS) == 38
    assert facts["parameters"] == sum(value.numel() for value in judge.network.parameters())
    assert facts["command"].startswith("python -m flexedit.benchmark.judge --steps ")
    assert facts["sure"] == SURE
    assert facts["trained_on"]["split"] == "train" and facts["measured"]["split"] == "heldout"
    assert facts["measured"]["accuracy"].keys() == {"all", *OPERATIONS}
    assert json.loads((FOLDER / FACTS).read_text()) == facts


@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_tells_an_edit_from_an_unchanged_scene(judge, operation):
    samples = rows(operation, 100)
    regions = [truth_of(sample)[1] for sample in samples]
    expected = [sample.result_label for sample in samples]
    edited = judge.answers([sample.target for sample in samples], regions)
    unchanged = judge.answers([sample.scene for sample in samples], regions)
    published = judge.facts["measured"]
    assert published["scenes_per_operation"] >= 1000
    for answers, name in ((edited, "accuracy"), (unchanged, "scene_called_success")):
        rate = published[name][operation]
        assert rate >= 0.85 if name == "accuracy" else rate <= 0.1
        again = np.mean([a == b for a, b in zip(answers, expected, strict=True)])
        error = np.sqrt(max(rate * (1 - rate), 0.002) / len(samples))
        assert again == pytest.approx(rate, abs=3 * error)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_edit_gone_wrong_does_not_pass_for_the_right_one(judge, operation):
    samples, rng = rows(operation, 40), np.random.default_rng(0)
    answers = judge.read([spoiled(sample, rng) for sample in samples])
    expected = [sample.result_label for sample in samples]
    assert np.mean([a == b for a, b in zip(answers, expected, strict=True)]) <= 0.15
    assert np.mean([answer == UNCLEAR for answer in answers]) >= 0.6


def spoiled(sample, rng):
    truth, region = truth_of(sample)
    return spoil(crop(truth, region), crop(sample.scene, region), sample, rng)


def test_it_judges_scenes_of_other_sizes(judge):
    samples = rows("replace", 20, size=160)
    answers = judge.answers(*zip(*map(truth_of, samples), strict=True))
    expected = [sample.result_label for sample in samples]
    assert np.mean([a == b for a, b in zip(answers, expected, strict=True)]) >= 0.85


def test_an_answer_depends_on_its_own_picture_alone(judge):
    truths, regions = zip(*map(truth_of, rows("add", 7)), strict=True)
    alone = [judge.answers([a], [b])[0] for a, b in zip(truths, regions, strict=True)]
    assert judge.answers(truths, regions, batch_size=3) == alone


def test_nothing_outside_the_window_counts(judge):
    truths, regions = zip(*map(truth_of, rows("replace", 10, size=128)), strict=True)
    cut = []
    for truth, region in zip(truths, regions, strict=True):
        window = window_around(region)
        assert region[window].sum() == region.sum()
        alone = np.zeros_like(truth)
        alone[window] = truth[window]
        cut.append(alone)
    assert judge.answers(cut, regions) == judge.answers(truths, regions)


# What it sees


def strip(shape, window):
    region = np.zeros(shape, bool)
    region[window] = True
    return region


@pytest.mark.parametrize(
    "window",
    [np.s_[0, 0], np.s_[-1:, -1:], np.s_[20, 30], np.s_[:, 0], np.s_[-2:, :], np.s_[:, :]],
    ids=["corner", "other corner", "pixel", "left border", "bottom border", "everything"],
)
@pytest.mark.parametrize("shape", [(64, 64), (40, 90), (5, 7)])
def test_any_region_that_is_not_empty_can_be_judged(judge, shape, window):
    if shape == (5, 7) and window == np.s_[20, 30]:
        window = np.s_[2, 3]
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    region = strip(shape, window)
    seen = crop(picture, region)
    assert seen.shape == (4, SIDE, SIDE)
    assert torch.isfinite(seen).all() and seen.min() >= 0 and seen.max() <= 1
    assert seen[3].any()
    assert judge.answers([picture], [region])[0] in ANSWERS


def test_an_empty_region_shows_nothing(judge):
    with pytest.raises(FlexEditError, match="empty"):
        judge.answers([np.zeros((64, 64, 3), np.uint8)], [np.zeros((64, 64), bool)])


def test_it_is_told_roughly_where_the_region_is_but_not_what_shape_it_has():
    picture = np.zeros((64, 64, 3), np.uint8)
    y, x = np.mgrid[:64, :64]
    disc = np.hypot(y - 31.5, x - 31.5) < 12
    ragged = disc & ((x // 2 + y // 2) % 2 == 0) | (y == 31) & disc | (x == 31) & disc
    smooth_place, ragged_place = (crop(picture, region)[3] for region in (disc, ragged))
    assert smooth_place[SIDE // 2, SIDE // 2] > 0.9 and smooth_place[0, 0] < 0.1
    scaled = ragged_place * smooth_place.sum() / ragged_place.sum()
    assert (scaled - smooth_place).abs().mean() < 0.1


def test_the_window_is_a_square_around_the_region_moved_inside_at_a_border():
    region = strip((64, 64), np.s_[30:40, 20:40])
    assert window_around(region) == np.s_[21:49, 16:44]  # 28 = 1.4 · 20 pixels
    assert window_around(region, shift=(0.25, -0.25)) == np.s_[14:42, 23:51]
    assert window_around(region, shift=(9, -9)) == np.s_[0:28, 36:64]
    assert window_around(strip((64, 64), (63, 0))) == np.s_[56:64, 0:8]


def test_a_judge_is_as_sure_as_its_own_facts_say(judge):
    crops = [crop(*truth_of(sample)) for sample in rows("add", 8)]
    assert not {UNCLEAR, BACKGROUND} & set(judge.read(crops))
    assert set(Judge(judge.network, {"sure": 1e9}).read(crops)) == {UNCLEAR}


def test_it_names_a_thing_only_if_that_is_clearly_likelier_than_unclear():
    thing, background, unclear = map(ANSWERS.index, (CLASSES[3], BACKGROUND, UNCLEAR))
    logits = torch.full((5, len(ANSWERS)), -9.0)
    logits[:, unclear] = 2.0
    logits[0, thing], logits[1, thing] = 2.9, 3.1
    logits[2, background], logits[3, background] = 1.9, 2.1
    logits[4, thing], logits[4, background] = 3.1, 3.2  # the likelier of the two
    assert choose(logits).tolist() == [unclear, thing, unclear, background, background]
    assert choose(logits, 0.0).tolist() == [thing, thing, unclear, background, background]


def test_a_folder_without_a_judge_says_how_to_make_one(tmp_path):
    with pytest.raises(FlexEditError, match=r"python -m tools\.judge"):
        Judge.load(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    network = module.Network((8, 16, 24))
    Judge(network, {}).save(tmp_path)
    with pytest.raises(FlexEditError, match="no judge that can be read"):
        Judge.load(tmp_path)
