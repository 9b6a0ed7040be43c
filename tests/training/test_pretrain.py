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
    shown = dataclasses.replace(
        views("remove"),
        classes=torch.full((1, SIZE, SIZE), 5),
        covered=torch.ones(1, SIZE, SIZE),
    )
    head = DenseHead(WIDTH, SIDE)
    head.norm = torch.nn.Identity()  # a token is the colours of its patch's quarters
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.eye(len(CLASSES) + 2)[5] * 50)
        head.linear.bias[-1] = 50.0
        head.colors.weight.copy_(torch.eye(WIDTH))
        head.colors.bias.zero_()
    half = SIZE // SIDE // 2
    tokens = torch.zeros(1, 1 + SIDE**2, WIDTH)  # the first is CLS
    for patch in range(SIDE**2):
        top, left = (2 * half * number for number in divmod(patch, SIDE))
        quarters = [
            shown.pictures[0, c, y : y + half, x : x + half].mean()
            for c in range(3) for y in (top, top + half) for x in (left, left + half)
        ]  # fmt: skip
        tokens[0, 1 + patch] = torch.stack(quarters)
    assert all(loss.shape == (1,) and loss < 1e-6 for loss in head(tokens, shown).values())
    assert head(tokens.flip(1), shown)["colors"] > 0.01
    other = dataclasses.replace(shown, classes=shown.classes + 1, covered=1 - shown.covered)
    wrong = head(tokens, other)
    assert wrong["classes"] > 1 and wrong["covered"] > 1
