import itertools
import json

import numpy as np
import pytest
import torch

from flexedit.benchmark.judge import ANSWERS, FACTS, SIDE, UNCLEAR, WEIGHTS, Judge, crop
from flexedit.data.world import World
from flexedit.prompts import BACKGROUND
from tools.judge import (
    OPERATIONS,
    TRAIN_SEED,
    examples,
    main,
    soften,
    spoil,
    train,
    truth_of,
)


def rows(operation: str, count: int, size: int = 64, seed: int = 5):
    world = World(size, "heldout", seed, operations={operation: 1.0})
    return [world[index] for index in range(count)]


def spoiled(sample, rng):
    truth, region = truth_of(sample)
    return spoil(crop(truth, region), crop(sample.scene, region), sample, rng)


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


def test_the_command_trains_measures_and_writes_what_is_shipped(tmp_path, capsys, monkeypatch):
    main(["--out", str(tmp_path), "--steps", "2", "--batch-size", "4", "--count", "3"])
    facts = json.loads((tmp_path / FACTS).read_text())
    assert facts["measured"] == json.loads(capsys.readouterr().out)
    assert "--steps 2 --batch-size 4" in facts["command"]
    assert (tmp_path / WEIGHTS).is_file()
