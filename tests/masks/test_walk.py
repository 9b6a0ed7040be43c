import numpy as np
import pytest
import torch

from flexedit import masks
from flexedit.errors import FlexEditError


def disc(height: int = 64, width: int = 64, **where: float) -> np.ndarray:
    return masks.draw("circle", height, width, **where).numpy() > 0.5


@pytest.mark.parametrize("coverage", [0.2, 0.5, 0.8])
def test_a_random_walk_covers_what_is_asked_and_stays_at_the_object(coverage):
    whole = disc(shape_width=0.5, shape_height=0.3, x=0.2)
    nearby = masks.grow(torch.from_numpy(whole)[None].float(), 3)[0].numpy() > 0
    for seed in range(20):
        walk = masks.random_walk(whole, np.random.default_rng(seed), coverage)
        covered = (walk & whole).sum() / whole.sum()
        assert coverage - 0.01 <= covered <= coverage + 0.25
        assert not (walk & ~nearby).any()


def test_random_walks_differ_and_are_reproducible():
    whole = disc()
    first, again, other = (masks.random_walk(whole, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_a_random_walk_reaches_every_part_of_a_broken_object():
    parts = disc(x=0.25, shape_width=0.2) | disc(x=0.75, shape_width=0.2)
    walk = masks.random_walk(parts, np.random.default_rng(0), coverage=1.0)
    assert walk[parts].all()


@pytest.mark.parametrize("kind", [*masks.KINDS, masks.RANDOM_WALK])
def test_a_scribble_means_its_object_more_than_any_other(kind):
    target = disc(x=0.35, shape_width=0.3)
    other = disc(x=0.65, shape_width=0.4)
    target &= ~other
    for seed in range(30):
        mask = masks.scribble(kind, target, np.random.default_rng(seed), [other])
        covered = (mask & target).sum()
        assert covered >= 0.08 * target.sum()
        assert covered > (mask & other).sum()


@pytest.mark.parametrize("kind", masks.KINDS)
def test_even_a_single_pixel_can_be_scribbled_on(kind):
    target = np.zeros((64, 64), bool)
    target[5, 60] = True
    assert masks.scribble(kind, target, np.random.default_rng(0))[5, 60]


@pytest.mark.parametrize(
    ("kind", "area", "following"),
    [
        ("circle", 264, 0.967436),
        ("rectangle", 189, 0.679811),
        ("triangle", 167, 0.967436),
        ("irregular", 134, 0.967436),
        ("circle open", 297, 0.967436),
        ("rectangle open", 378, 0.967436),
        ("triangle open", 256, 0.967436),
        ("irregular open", 181, 0.967436),
        ("random walk", 129, 0.891209),
    ],
)
def test_a_seed_scribbles_what_it_always_has(kind, area, following):
    """Benchmarks and training sets are named by their seeds: the dice must keep their order."""
    target = masks.draw("irregular", 64, 80, seed=5).numpy() > 0.5
    other = disc(64, 80, x=0.7, shape_width=0.3)
    rng = np.random.default_rng(2)
    mask = masks.scribble(kind, target & ~other, rng, [other])
    assert rng.random() == pytest.approx(following, abs=1e-6)
    assert mask.sum() == pytest.approx(area, abs=3)  # an edge pixel may round either way


@pytest.mark.parametrize("kind", masks.SOLID)
def test_a_scribble_can_say_how_it_is_turned(kind):
    target, turns = disc(96, 96), []
    for seed in range(20):
        mask, turn = masks.turned_scribble(kind, target, np.random.default_rng(seed))
        assert (mask == masks.scribble(kind, target, np.random.default_rng(seed))).all()
        turns.append(turn)
    assert np.ptp(turns) > (180 if kind == "triangle" else 40)
    assert all(0 <= turn <= 360 if kind == "triangle" else -40 <= turn <= 40 for turn in turns)


def test_what_is_no_shape_has_no_turn():
    walk = masks.turned_scribble(masks.RANDOM_WALK, disc(), np.random.default_rng(0))
    pixel = np.zeros((64, 64), bool)
    pixel[5, 60] = True
    assert walk[1] is None
    assert masks.turned_scribble("circle open", pixel, np.random.default_rng(0))[1] is None


def test_nothing_can_be_scribbled_on_nothing():
    with pytest.raises(FlexEditError, match="empty"):
        masks.scribble("circle", np.zeros((8, 8), bool), np.random.default_rng(0))
