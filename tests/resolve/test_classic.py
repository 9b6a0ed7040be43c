import numpy as np
import pytest
import torch

from flexedit.masks.strokes import Stroke, rasterise
from flexedit.resolve import classic
from flexedit.resolve.candidates import MOST, iou
from tests.resolve.scenes import LEFT, RIGHT, disc, scene


def overlap(one, other) -> float:
    return iou(np.asarray(one) > 0, np.asarray(other) > 0, np.ones(other.shape))


@pytest.mark.parametrize("center", [LEFT, RIGHT])
def test_a_dab_on_a_thing_means_the_whole_thing(center):
    found = classic.resolve(scene(), disc(center, 14))
    assert not found.ambiguous
    assert overlap(found.candidates[0].mask, disc(center, 28)) > 0.8


def test_dabs_on_two_things_are_ambiguous_and_both_things_are_shown_first():
    found = classic.resolve(scene(), torch.maximum(disc(LEFT, 14), disc(RIGHT, 14)))
    assert found.ambiguous
    first, second = (one.mask for one in found.candidates[:2])
    pairings = [
        min(overlap(first, disc(one, 28)), overlap(second, disc(other, 28)))
        for one, other in ((LEFT, RIGHT), (RIGHT, LEFT))
    ]
    assert max(pairings) > 0.75


def test_a_ring_around_a_thing_means_what_is_inside():
    ring = disc(LEFT, 34) - disc(LEFT, 30)
    found = classic.resolve(scene(), ring)
    assert overlap(found.candidates[0].mask, disc(LEFT, 28)) > 0.8


@pytest.mark.parametrize("width", [0.004, 0.02])
def test_a_thin_stroke_where_colours_tell_nothing_is_not_lost(width):
    grain = torch.randn((3, 512, 512), generator=torch.Generator().manual_seed(0))
    stroke = Stroke("brush", ((0.3, 0.3), (0.7, 0.7)), True, width)
    scribble = rasterise([stroke], 512, 512)
    found = classic.resolve((0.5 + 0.02 * grain).clamp(0, 1), scribble).candidates
    assert all(one.mask.sum() > 50 for one in found)
    assert (found[0].mask & (scribble.numpy() > 0)).sum() > 0.1 * scribble.sum()


def test_candidates_are_few_different_and_ranked_by_their_confidence():
    found = classic.resolve(scene(), disc(LEFT, 20))
    confidence = [one.confidence for one in found.candidates]
    assert 2 <= len(confidence) <= MOST
    assert confidence == sorted(confidence, reverse=True)
    assert all(0 < one < 1 for one in confidence)


def test_a_picture_twice_as_large_has_the_same_object_twice_as_large():
    def twice(planes):
        return torch.nn.functional.interpolate(planes[None], scale_factor=2, mode="bilinear")[0]

    small = classic.resolve(scene(), disc(LEFT, 14)).candidates[0].mask
    large = classic.resolve(twice(scene()), twice(disc(LEFT, 14)[None])[0]).candidates[0].mask
    assert large.shape == (240, 320)
    assert overlap(large[::2, ::2], small) > 0.9


def test_the_same_scribble_gives_the_same_candidates_every_time():
    once, again = (classic.resolve(scene(), disc(LEFT, 14)).candidates for _ in range(2))
    assert all(
        (a.mask == b.mask).all() and a.confidence == b.confidence
        for a, b in zip(once, again, strict=True)
    )


def one_pixel(height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(height, width)
    mask[height // 2, width // 3] = 1
    return mask


@pytest.mark.parametrize(
    ("picture", "mask"),
    [
        (scene(), one_pixel(120, 160)),
        (scene(), torch.ones(120, 160)),
        (torch.full((3, 90, 70), 0.5), one_pixel(90, 70)),
        (torch.zeros(3, 40, 40), torch.ones(40, 40)),
        (scene()[:, :, 40:48], disc(LEFT, 14)[:, 40:48]),
        (scene()[:, :1], torch.ones(1, 160)),
        (torch.rand(3, 1, 1), torch.ones(1, 1)),
        (scene(), 0.2 * disc(LEFT, 14)),
        (scene().repeat(1, 20, 15), one_pixel(2400, 2400)),
    ],
    ids=[
        "one pixel",
        "all of it",
        "a pixel on grey",
        "all of black",
        "8 pixels wide",
        "1 pixel high",
        "1 pixel in all",
        "faint",
        "large",
    ],
)
def test_every_scribble_has_a_candidate(picture, mask):
    found = classic.resolve(picture, mask)
    assert found.candidates
    for one in found.candidates:
        assert one.mask.dtype == bool and one.mask.shape == mask.shape and one.mask.any()
        assert 0 <= one.confidence <= 1
