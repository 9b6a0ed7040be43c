import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from flexedit import masks
from flexedit.errors import FlexEditError
from flexedit.resolve import classic
from flexedit.resolve.candidates import Candidate, Resolution
from flexedit.resolve.resolver import COLORS, describe, mend, overlay, resolve, tidy
from tests.resolve.scenes import HEIGHT, LEFT, RIGHT, WIDTH, disc, scene


def both() -> torch.Tensor:
    return torch.maximum(disc(LEFT, 14), disc(RIGHT, 14))


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one > 0, other > 0
    return float((one & other).sum() / (one | other).sum())


# What goes in


def test_each_scene_of_a_batch_has_its_own_mask():
    scribbles = torch.stack([disc(LEFT, 14), disc(RIGHT, 14)])
    found = resolve(scene()[None], scribbles)
    assert found.mask.shape == (2, HEIGHT, WIDTH) and found.overlay.shape == (2, 3, HEIGHT, WIDTH)
    assert overlap(found.mask[0], disc(LEFT, 28)) > 0.8
    assert overlap(found.mask[1], disc(RIGHT, 28)) > 0.8


def test_one_scribble_serves_several_scenes_of_any_channels():
    scenes = torch.cat([scene(), torch.ones(1, HEIGHT, WIDTH)]).expand(2, -1, -1, -1)
    found = resolve(scenes, disc(LEFT, 14))
    assert len(found.report()) == 2 and torch.equal(found.mask[0], found.mask[1])


def test_two_scenes_with_three_scribbles_are_refused():
    with pytest.raises(FlexEditError, match="Batch sizes do not match"):
        resolve(scene().expand(2, -1, -1, -1), torch.ones(3, 8, 8))


def test_a_scribble_of_another_size_is_scaled_to_the_scene():
    small = disc(LEFT, 14)[::2, ::2]
    assert overlap(resolve(scene()[None], small).mask[0], disc(LEFT, 28)) > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": torch.zeros(1, 64, 64)}, "Paint over the thing"),
        ({"method": "guess"}, "choose one of classic, sam"),
        ({"method": "sam"}, "Connect a FlexEdit SAM Loader"),
        ({"candidate": 7}, r"no candidate 7: the scribble of picture 1 has \d"),
        ({"candidate": 0}, "no candidate 0"),
        ({"grow": -80}, "shrinks by 80 pixels"),
    ],
)
def test_what_cannot_be_done_is_explained(settings, message):
    with pytest.raises(FlexEditError, match=message):
        resolve(**({"scene": scene()[None], "mask": disc(LEFT, 14)} | settings))


def test_what_watches_the_work_can_end_it():
    done = []

    def watch(count: int) -> None:
        done.append(count)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(scene().expand(3, -1, -1, -1), disc(LEFT, 14), on_picture=watch)
    assert done == [1]


def test_a_look_comes_between_two_searches_of_a_large_picture(monkeypatch):
    happened = []

    def told(function: Callable) -> Callable:
        return lambda *given, **named: happened.append("work") or function(*given, **named)

    for place, name in (
        (ndimage, "label"),
        (ndimage, "distance_transform_cdt"),
        (classic, "superpixels"),
        (classic, "merge"),
    ):
        monkeypatch.setattr(place, name, told(getattr(place, name)))
    resolve(scene()[None], disc(LEFT, 14), grow=2, look=lambda: happened.append("look"))
    assert happened.count("work") > 10
    assert ("work", "work") not in pairwise(happened)


# What comes out


def test_another_candidate_can_be_chosen():
    first, second = (resolve(scene()[None], both(), candidate=k) for k in (1, 2))
    assert first.resolutions[0].ambiguous
    assert overlap(first.mask, second.mask) == 0
    assert [one.report()[0]["chosen"] for one in (first, second)] == [1, 2]


def test_the_mask_grows_shrinks_and_fades_as_composites_do():
    plain = resolve(scene()[None], disc(LEFT, 14)).mask
    grown, shrunk, soft = (
        resolve(scene()[None], disc(LEFT, 14), **how).mask
        for how in ({"grow": 3}, {"grow": -3}, {"feather": 4})
    )
    assert torch.equal(grown, masks.grow(plain, 3)) and grown.sum() > plain.sum() > shrunk.sum() > 0
    assert torch.equal(soft, masks.feather(plain, 4)) and 0 < soft[soft > 0].min() < 1


def test_the_report_is_json_and_tells_where_each_candidate_is():
    (report,) = json.loads(json.dumps(resolve(scene()[None], both()).report()))
    assert report["ambiguous"] and "two things" in report["message"]
    left, top, right, bottom = report["candidates"][0]["box"]
    assert right - left == pytest.approx(56, abs=6) and bottom - top == pytest.approx(56, abs=6)
    assert [one["candidate"] for one in report["candidates"][:2]] == [1, 2]
    assert report["candidates"][0]["area"] == pytest.approx(
        np.pi * 28**2 / HEIGHT / WIDTH, abs=0.01
    )


def test_a_scribble_on_one_thing_has_no_message():
    (report,) = resolve(scene()[None], disc(LEFT, 14)).report()
    assert not report["ambiguous"] and report["message"] == ""


# The overlay


def found(*corners: tuple[int, int], ambiguous: bool = False) -> Resolution:
    candidates = []
    for y, x in corners:
        mask = np.zeros((40, 60), bool)
        mask[y : y + 12, x : x + 12] = True
        candidates.append(Candidate(mask, 0.5))
    return Resolution(tuple(candidates), ambiguous)


def colors(picture: torch.Tensor, *places: tuple[int, int]) -> list[tuple[float, ...]]:
    return [tuple(picture[:, y, x].tolist()) for y, x in places]


def test_each_candidate_has_an_outline_in_its_colour_and_the_chosen_one_is_filled():
    black = torch.zeros(3, 40, 60)
    picture = overlay(black, found((5, 5), (5, 30)), candidate=2)
    expected = [tuple(torch.tensor(masks.COLORS[name]).tolist()) for name in COLORS[:2]]
    assert colors(picture, (5, 5), (5, 30)) == expected
    first, second, outside = colors(picture, (11, 11), (11, 36), (30, 30))
    assert first == outside == (0, 0, 0) and second != outside


def test_both_things_of_an_ambiguous_scribble_are_filled():
    picture = overlay(torch.zeros(3, 40, 60), found((5, 5), (5, 30), ambiguous=True), candidate=1)
    assert all(sum(color) > 0 for color in colors(picture, (11, 11), (11, 36)))


def test_there_are_as_many_colours_as_candidates():
    everything = found(*((y, x) for y in (2, 22) for x in (2, 22, 42)))
    assert len({one["color"] for one in describe(everything, 1)["candidates"]}) == 6


# Mending


def rings() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[5:25, 5:25] = True
    mask[10:20, 10:20] = False
    mask[30:33, 50:53] = True
    return mask


def test_holes_are_filled_and_small_islands_go():
    assert tidy(rings(), True, 0)[15, 15] and tidy(rings(), True, 0)[31, 51]
    assert not tidy(rings(), False, 0)[15, 15]
    assert not tidy(rings(), True, 10)[31, 51] and tidy(rings(), True, 9)[31, 51]


def test_the_largest_island_stays_however_small_it_is():
    assert tidy(rings(), True, 10**6).sum() == 400


def test_candidates_that_become_equal_are_one():
    hollow, full = rings(), tidy(rings(), True, 10)
    resolution = Resolution((Candidate(hollow, 0.8), Candidate(full, 0.7)), ambiguous=True)
    mended = mend(resolution, True, 10)
    assert [one.confidence for one in mended.candidates] == [0.8] and not mended.ambiguous
    assert mend(resolution, False, 0).ambiguous
