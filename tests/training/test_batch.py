from dataclasses import replace

import pytest
import torch

from flexedit.data.sample import Sample
from flexedit.data.world import World
from flexedit.errors import FlexEditError
from flexedit.training.batch import Batch, collate, loader

WORLD = World(32, seed=5)


def scenes(batches: list[Batch]) -> list[bytes]:
    return [sample.scene.tobytes() for batch in batches for sample in batch.samples]


def of(operation: str) -> object:
    return World(32, operations={operation: 1.0})[0]


# Order


def test_step_s_shows_the_samples_from_s_times_the_batch_on():
    batches = list(loader(WORLD, 4, 3, 5))
    assert len(batches) == 2
    assert scenes(batches) == [WORLD[index].scene.tobytes() for index in range(12, 20)]


def test_workers_do_not_change_the_order():
    alone, helped = (list(loader(WORLD, 4, 0, 4, num_workers=n)) for n in (0, 2))
    assert scenes(alone) == scenes(helped)


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_share_each_step_without_gap_or_overlap(ranks):
    shares = [list(loader(WORLD, 4, 1, 3, rank=rank, ranks=ranks)) for rank in range(ranks)]
    joined = [scene for step in zip(*shares, strict=True) for scene in scenes(list(step))]
    assert joined == scenes(list(loader(WORLD, 4, 1, 3)))


def test_a_resumed_run_sees_what_an_unbroken_one_sees():
    unbroken = list(loader(WORLD, 4, 0, 4))
    assert scenes(list(loader(WORLD, 4, 2, 4))) == scenes(unbroken[2:])


# Rows


def test_a_batch_holds_its_samples_row_by_row():
    samples = [WORLD[index] for index in range(6)]
    batch = collate(samples)
    for row, sample in enumerate(samples):
        scene = (batch.request.scene[row].permute(1, 2, 0) * 255).round().byte().numpy()
        assert (scene == sample.scene).all()
        assert (batch.request.mask[row].bool().numpy() == sample.mask).all()
        assert (batch.object_mask[row].bool().numpy() == sample.object_mask).all()
        assert (batch.classes[row].numpy() == sample.classes).all()
        assert batch.request.instructions[row] == sample.instruction
        assert batch.request.tasks[row] == sample.task
        assert (batch.captions[row], batch.replies[row]) == (sample.caption, sample.reply)
        assert batch.request.has_subject[row] == (sample.subject is not None)
        if sample.subject is not None:
            assert (batch.subject_classes[row].numpy() == sample.subject_classes).all()


def test_a_question_has_no_target():
    batch = collate([of("ask"), of("remove")])
    assert batch.has_target.tolist() == [0.0, 1.0]
    assert torch.equal(batch.target[0], batch.request.scene[0])
    assert not batch.region[0].any() and batch.region[1].any()


def test_a_row_without_a_mask_is_asked_about_the_whole_picture_beside_rows_with_one():
    samples = [replace(WORLD[0], mask=None, task="edit"), replace(WORLD[1], task="edit")]
    request = collate(samples).request
    assert request.has_mask == (False, True)
    assert ["white mask" in prompt for prompt in request.prompts()] == [False, True]
    scene = torch.from_numpy(samples[0].scene).permute(2, 0, 1) / 255
    torch.testing.assert_close(request.marked()[0], scene)


def test_a_row_without_a_subject_is_given_any_picture_beside_rows_with_one():
    with_subject, without = of("insert"), of("remove")
    batch = collate([without, with_subject])
    assert batch.request.has_subject == (False, True)
    given = (batch.request.subject[1].permute(1, 2, 0) * 255).round().byte().numpy()
    assert (given == with_subject.subject).all()
    assert collate([without]).request.subject is None


class Broken:
    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            raise FlexEditError("mask.png is empty.")
        return WORLD[index]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sample_that_cannot_be_made_says_so_in_its_own_words(num_workers):
    batches = loader(Broken(), 2, 0, 4, num_workers=num_workers)
    assert len(next(batches).samples) == 2
    with pytest.raises(FlexEditError) as raised:
        next(batches)
    assert str(raised.value) == "mask.png is empty."
