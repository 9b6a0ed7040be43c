import itertools
import json

import numpy as np
import pytest
import torch

from flexedit.benchmark import judge as module
from flexedit.benchmark.judge import (
    ANSWERS,
    FACTS,
    FOLDER,
    OPERATIONS,
    SIDE,
    SURE,
    TRAIN_SEED,
    UNCLEAR,
    WEIGHTS,
    Judge,
    choose,
    crop,
    examples,
    main,
    measure,
    soften,
    spoil,
    train,
    truth_of,
    window_around,
)
from flexedit.data.assets import CLASSES
from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.prompts import BACKGROUND


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


def test_the_published_accuracy_can_be_measured_again(judge):
    count = 60
    again, published = measure(judge, count, seed=123), judge.facts["measured"]
    names = {"accuracy", "accuracy_blurred", "accuracy_blurred_inside"}
    names |= {"scene_called_success", "spoiled_called_success"}
    assert names < published.keys()
    for name in names:
        rate = published[name]["all"]
        error = np.sqrt(max(rate * (1 - rate), 0.002) / (count * len(OPERATIONS)))
        assert again[name]["all"] == pytest.approx(rate, abs=4 * error)


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


# Training


def test_it_learns_from_truths_unchanged_scenes_and_other_things():
    answers = [ANSWERS[answer] for _, answer in itertools.islice(examples(TRAIN_SEED), 240)]
    assert len(set(answers)) > 30
    assert 0.05 < answers.count(BACKGROUND) / len(answers) < 0.3
    assert 0.3 < answers.count(UNCLEAR) / len(answers) < 0.5


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_spoiled_edit_differs_from_its_truth_where_the_edit_is(operation):
    for number, sample in enumerate(rows(operation, 12)):
        truth, region = truth_of(sample)
        right, wrong = crop(truth, region), spoiled(sample, np.random.default_rng(number))
        assert torch.equal(wrong, spoiled(sample, np.random.default_rng(number)))
        assert torch.equal(wrong[3], right[3])
        assert wrong.shape == right.shape and wrong.min() > -1e-5 and wrong.max() < 1 + 1e-5
        change, place = (wrong - right)[:3].abs().mean(0), right[3] > 0.2
        edit = (crop(sample.scene, region) - right)[:3].abs().mean(0)
        assert change[place].mean() > 0.15 * edit[place].mean()
        assert change[place].mean() > change[~place].mean()


def test_a_judge_is_as_sure_as_its_own_facts_say(judge):
    crops = [crop(*truth_of(sample)) for sample in rows("add", 8)]
    assert not {UNCLEAR, BACKGROUND} & set(judge.read(crops))
    assert set(Judge(judge.network, {"sure": 1e9}).read(crops)) == {UNCLEAR}


def test_half_of_the_soft_crops_it_learns_from_are_soft_around_the_region_only():
    crops = torch.rand(64, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    crops[:, 3] = 0
    crops[:, 3, 18:30, 18:30] = 1
    seen = soften(crops, torch.Generator().manual_seed(1))[:, :3]
    corner, middle = (
        seen[..., a:b, a:b].diff(dim=-1).abs().mean((1, 2, 3)) for a, b in ((0, 8), (20, 28))
    )
    inside = middle < 0.7 * corner
    assert 14 <= inside.sum() <= 34 and not inside[:16].any()  # a quarter is not soft at all


def test_the_same_seed_trains_the_same_judge_and_saving_keeps_its_answers(tmp_path):
    trained = [train(steps=2, batch_size=8, seed=3, device="cpu") for _ in range(2)]
    for key, value in trained[0].state_dict().items():
        assert torch.equal(value, trained[1].state_dict()[key])
    assert not torch.equal(trained[0].head.weight, train(2, 8, seed=4, device="cpu").head.weight)
    Judge(trained[0], {"steps": 2}).save(tmp_path)
    again = Judge.load(tmp_path)
    truths, regions = zip(*map(truth_of, rows("add", 4)), strict=True)
    crops = torch.stack([crop(*pair) for pair in zip(truths, regions, strict=True)])
    with torch.no_grad():
        torch.testing.assert_close(again.network(crops), trained[0](crops), atol=1e-2, rtol=1e-2)
    assert again.facts == {"steps": 2}


def test_it_names_a_thing_only_if_that_is_clearly_likelier_than_unclear():
    thing, background, unclear = map(ANSWERS.index, (CLASSES[3], BACKGROUND, UNCLEAR))
    logits = torch.full((5, len(ANSWERS)), -9.0)
    logits[:, unclear] = 2.0
    logits[0, thing], logits[1, thing] = 2.9, 3.1
    logits[2, background], logits[3, background] = 1.9, 2.1
    logits[4, thing], logits[4, background] = 3.1, 3.2  # the likelier of the two
    assert choose(logits).tolist() == [unclear, thing, unclear, background, background]
    assert choose(logits, 0.0).tolist() == [thing, thing, unclear, background, background]


def test_the_command_trains_measures_and_writes_what_is_shipped(tmp_path, capsys, monkeypatch):
    main(["--out", str(tmp_path), "--steps", "2", "--batch-size", "4", "--count", "3"])
    facts = json.loads((tmp_path / FACTS).read_text())
    assert facts["measured"] == json.loads(capsys.readouterr().out)
    assert "--steps 2 --batch-size 4" in facts["command"]
    assert (tmp_path / WEIGHTS).is_file()


def test_a_folder_without_a_judge_says_how_to_make_one(tmp_path):
    with pytest.raises(FlexEditError, match=r"python -m flexedit\.benchmark\.judge"):
        Judge.load(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    network = module.Network((8, 16, 24))
    Judge(network, {}).save(tmp_path)
    with pytest.raises(FlexEditError, match="no judge that can be read"):
        Judge.load(tmp_path)
