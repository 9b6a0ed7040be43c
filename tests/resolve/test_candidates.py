import numpy as np

from flexedit.resolve.candidates import MOST, distinct, halves
from flexedit.resolve.prior import scribble_prior
from flexedit.resolve.superpixels import merge, superpixels
from tests.resolve.scenes import LEFT, RIGHT, disc, scene


def drawn(*centers) -> np.ndarray:
    return sum(disc(center, 12) for center in centers).numpy() > 0


def test_two_strokes_are_parted_between_them():
    first, second = halves(drawn(LEFT, RIGHT))
    assert {first[LEFT], second[LEFT]} == {first[RIGHT], second[RIGHT]} == {True, False}
    assert first[LEFT] != first[RIGHT]
    assert (first ^ second == drawn(LEFT, RIGHT)).all()


def test_one_stroke_is_parted_across_its_length():
    stroke = np.zeros((40, 80), bool)
    stroke[18:22, 5:75] = True
    first, second = halves(stroke)
    assert sorted((first[20, 10], second[20, 10])) == sorted((first[20, 70], second[20, 70]))
    assert first[20, 10] != first[20, 70]
    assert abs(int(first.sum()) - int(second.sum())) <= 8


def test_a_pixel_has_no_second_half():
    pixel = np.zeros((5, 5), bool)
    pixel[2, 3] = True
    first, second = halves(pixel)
    assert first[2, 3] and not second.any()


def test_almost_equal_regions_are_one_candidate():
    regions = np.zeros((3, 100), bool)
    regions[0, :50], regions[1, :49], regions[2, :20] = True, True, True
    area = np.ones(100)
    assert distinct(regions, area, [1, 0, 2]) == [1, 2]
    area[49] = 1000  # now the two differ by most of their area
    assert distinct(regions, area, [1, 0, 2]) == [1, 0, 2]


def test_no_more_candidates_than_are_worth_a_look():
    assert len(distinct(np.eye(10, dtype=bool), np.ones(10), range(10))) == MOST


def test_a_scribble_alone_speaks_for_what_it_covers_and_encircles():
    ring = (disc(LEFT, 34) - disc(LEFT, 28)).numpy() > 0
    prior = scribble_prior(ring)
    assert prior.shape == ring.shape and (prior >= 0).all() and (prior <= 1).all()
    assert prior[LEFT] > prior[RIGHT] and prior[ring].mean() > prior[RIGHT]


def test_superpixels_keep_to_contours_and_grow_into_the_whole_picture():
    pixels = superpixels(scene().movedim(0, -1).numpy(), 200)
    share = pixels.mean(disc(LEFT, 28).numpy())
    assert pixels.area.sum() == pixels.labels.size
    assert np.minimum(share, 1 - share) @ pixels.area < 0.02 * pixels.labels.size
    regions = merge(pixels)
    assert len(regions) == 2 * pixels.count - 1
    assert regions[: pixels.count].sum() == pixels.count and regions[-1].all()


def test_a_disc_arises_among_the_regions():
    pixels = superpixels(scene().movedim(0, -1).numpy(), 200)
    truth = pixels.mean(disc(LEFT, 28).numpy()) > 0.5
    ious = [
        pixels.area[one & truth].sum() / pixels.area[one | truth].sum() for one in merge(pixels)
    ]
    assert max(ious) > 0.95


def test_what_a_ring_of_superpixels_encloses_is_filled():
    pixels = superpixels(scene().movedim(0, -1).numpy(), 200)
    ring = pixels.mean((disc(LEFT, 28) - disc(LEFT, 12)).numpy()) > 0.5
    middle, far = pixels.labels[LEFT], pixels.labels[RIGHT]
    assert not ring[middle]
    filled = pixels.filled(ring)
    assert filled[middle] and not filled[far] and (filled >= ring).all()
