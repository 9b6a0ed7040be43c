import dataclasses

import torch

from flexedit.data import CLASSES, World
from flexedit.training.batch import collate
from flexedit.training.pretrain import DenseHead, Views

SIZE, SIDE, WIDTH = 32, 4, 12


def views(*operations: str) -> Views:
    return Views.of(batch_of(*operations))


def batch_of(*operations: str):
    return collate([World(SIZE, operations={name: 1.0})[0] for name in operations])


def test_an_encoder_is_shown_marked_scenes_and_subjects():
    batch = batch_of("remove", "insert", "ask")
    shown = Views.of(batch)
    assert torch.equal(shown.pictures[:3], batch.request.marked())
    assert torch.equal(shown.pictures[3:], batch.request.subject[1:2])
    assert torch.equal(shown.classes[3:], batch.subject_classes[1:2])
    assert torch.equal(shown.covered[:3], batch.request.mask) and not shown.covered[3:].any()
    alone = views("remove")
    assert len(alone.pictures) == len(alone.classes) == len(alone.covered) == 1


def test_a_head_that_says_what_a_picture_shows_has_no_loss():
    shown = views("remove")
    colors = torch.rand(3, 2, 2)  # of the quarters of every patch
    plain = dataclasses.replace(
        shown,
        pictures=colors.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat(1, 1, SIDE, SIDE),
        classes=torch.full_like(shown.classes, 5),
        covered=torch.ones_like(shown.covered),
    )
    head = DenseHead(WIDTH, SIDE)
    with torch.no_grad():
        for linear in (head.linear, head.colors):
            linear.weight.zero_()
        head.linear.bias.copy_(torch.eye(len(CLASSES) + 2)[5] * 50)
        head.linear.bias[-1] = 50.0
        head.colors.bias.copy_(colors.flatten())
    tokens = torch.randn(1, 1 + SIDE**2, WIDTH)
    assert all(loss.shape == (1,) and loss < 1e-6 for loss in head(tokens, plain).values())
    assert all(loss > 0.01 for loss in head(tokens, shown).values())
