import time

import numpy as np
import pytest
import torch

from flexedit import masks
from flexedit.errors import FlexEditError


def disc(height: int = 64, width: int = 64, **where: float) -> np.ndarray:
    return masks.draw("circle", height, width, **where).numpy() > 0.5


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


# Drawing


@pytest.mark.parametrize(
    ("kind", "area"), [("circle", np.pi / 4), ("rectangle", 1.0), ("triangle", 0.5)]
)
def test_a_solid_shape_has_the_area_of_its_formula(kind, area):
    mask = masks.draw(kind, 200, 300, shape_width=0.5, shape_height=0.6, rotation=20)
    assert mask.shape == (200, 300)
    assert mask.sum() == pytest.approx(area * 150 * 120, rel=0.02)


@pytest.mark.parametrize("form", masks.SOLID)
def test_an_open_shape_is_its_solid_one_with_a_hole(form):
    solid, ring = masks.draw(form, 96, 96), masks.draw(f"{form} open", 96, 96)
    assert (ring <= solid).all() and ring.sum() < solid.sum()
    assert solid[48, 48] == 1 and ring[48, 48] == 0


def test_the_stroke_sets_how_wide_an_outline_is():
    ring = masks.draw("rectangle open", 100, 200, stroke=0.1)
    row = ring[50].numpy()
    assert row[60:70].all() and not row[70:130].any() and row[130:140].all()


def test_a_stroke_wider_than_the_shape_fills_it():
    wide = masks.draw("rectangle open", 64, 64, shape_width=0.2, shape_height=0.2, stroke=0.5)
    assert torch.equal(wide, masks.draw("rectangle", 64, 64, shape_width=0.2, shape_height=0.2))


def test_a_line_that_fills_its_circle_leaves_no_hole_in_the_very_centre(recwarn):
    size = {"shape_width": 0.1, "shape_height": 0.1}
    wide = masks.draw("circle open", 101, 101, stroke=0.5, **size)
    assert torch.equal(wide, masks.draw("circle", 101, 101, **size)) and not recwarn


def test_rotation_is_clockwise():
    upright = masks.draw("triangle", 90, 90)
    turned = masks.draw("triangle", 90, 90, rotation=90)
    assert iou(turned, torch.rot90(upright, -1)) > 0.9


def test_a_shape_at_the_border_is_cut_off_there():
    mask = masks.draw("circle", 64, 64, x=0.0)
    assert mask[32, 0] == 1 and mask.sum() == pytest.approx(masks.draw("circle", 64, 64).sum() / 2)


def test_the_seed_chooses_the_irregular_outline():
    first, again, other = (masks.draw("irregular", 64, 64, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_smallest_shape_still_marks_a_pixel():
    assert masks.draw("circle", 64, 64, shape_width=1e-4, shape_height=1e-4).sum() >= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "star"}, "Unknown mask kind 'star'"),
        ({"x": 3.0}, "outside the picture"),
        ({"shape_width": 0.0}, "above 0"),
        ({"stroke": -1.0}, "above 0"),
        ({"y": float("nan")}, "finite"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_explained(settings, message):
    with pytest.raises(FlexEditError, match=message):
        masks.draw(**{"kind": "circle", "height": 32, "width": 32} | settings)


def test_drawing_is_fast_enough_to_train_on():
    start = time.perf_counter()
    for seed in range(100):
        masks.draw("irregular open", 512, 512, seed=seed)
    assert time.perf_counter() - start < 1.5


# Free-shape masks of an object


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


# Painting and reading back


def test_painting_mixes_the_colour_into_the_mask_only():
    scene, mask = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8)
    mask[0, 2:4] = 1
    marked = masks.paint(scene, mask)
    assert (marked[0, :, 2:4] == 0.5).all() and marked.sum() == 0.5 * 3 * 16


@pytest.mark.parametrize("color", [None, masks.COLORS["blue"]])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_painted_mask_is_read_back(color, noise):
    generator = torch.Generator().manual_seed(0)
    scene = torch.rand(2, 3, 8, 8, generator=generator).repeat_interleave(12, 2)
    scene = scene.repeat_interleave(12, 3)
    mask = torch.stack([masks.draw("irregular", 96, 96), masks.draw("triangle open", 96, 96)])
    painted = masks.paint(scene, mask, alpha=1.0, color=masks.COLORS["blue"])
    painted = painted + noise * torch.randn(painted.shape, generator=generator)
    read = masks.read_painted(scene, painted, color)
    assert set(read.unique().tolist()) == {0.0, 1.0}
    assert all(iou(a, b) > 0.9 for a, b in zip(read, mask, strict=True))


def test_a_scene_of_the_paints_own_colour_is_filled_in_from_its_surroundings():
    scene = torch.full((1, 3, 64, 64), 0.4)
    red = torch.tensor(masks.COLORS["red"]).view(3, 1, 1)
    scene[0, :, 28:36, 28:36] = red
    mask = masks.draw("circle", 64, 64)[None]
    painted = masks.paint(scene, mask, alpha=1.0, color=masks.COLORS["red"])
    assert iou(masks.read_painted(scene, painted, masks.COLORS["red"]), mask) > 0.95


def test_small_specks_elsewhere_are_not_part_of_the_object():
    scene, mask = torch.zeros(1, 3, 64, 64), masks.draw("circle", 64, 64)[None]
    painted = masks.paint(scene, mask, alpha=1.0, color=(1, 0, 0))
    painted[0, 0, 2:4, 2:4] = 1
    assert masks.read_painted(scene, painted)[0, :8, :8].sum() == 0


def test_an_unchanged_picture_has_no_painted_mask():
    scene = torch.rand(1, 3, 32, 32)
    assert masks.read_painted(scene, scene + 0.01).sum() == 0


# Sizes and batches


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (65, 100), (7, 23)])
def test_padding_is_undone(size):
    image = torch.rand(2, 3, *size)
    padded = masks.pad_to_multiple(image, 8)
    assert padded.shape[2] % 8 == padded.shape[3] % 8 == 0
    assert torch.equal(masks.unpad(padded, *size), image)
    assert torch.equal(padded[..., -1, -1], image[..., -1, -1])


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8), (2, 16, 12), (2, 1, 4, 4)])
def test_a_mask_of_any_form_fits_the_pictures(shape):
    mask = masks.prepare_mask(torch.ones(shape) * 7, height=16, width=12, batch=2)
    assert mask.shape == (2, 16, 12) and (mask == 1).all()


def test_empty_mask_tells_the_user_to_paint():
    with pytest.raises(FlexEditError, match="Paint over"):
        masks.prepare_mask(torch.zeros(1, 8, 8), height=8, width=8)


def test_the_placeholder_of_an_unmasked_image_counts_as_empty():
    with pytest.raises(FlexEditError, match="Paint over"):
        masks.prepare_mask(torch.zeros(1, 64, 64), height=480, width=640)


def test_one_empty_mask_of_a_batch_is_noticed():
    pair = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])
    with pytest.raises(FlexEditError, match="Paint over"):
        masks.prepare_mask(pair, 8, 8, batch=2)


def test_a_soft_mask_has_an_outside_too():
    soft = torch.full((1, 40, 40), 1 / 255)
    soft[:, 10:20, 10:20] = 0.6
    mask = masks.prepare_mask(soft, 40, 40)
    assert (mask > 0).sum() == 100 and mask.max() == soft.max()
    with pytest.raises(FlexEditError, match="The mask is empty"):
        masks.prepare_mask(torch.full((1, 40, 40), 1 / 255), 40, 40)


def test_nan_in_a_mask_is_reported():
    with pytest.raises(FlexEditError, match="NaN"):
        masks.prepare_mask(torch.full((8, 8), float("nan")), 8, 8)


def test_batches_that_do_not_match_are_reported_with_both_numbers():
    with pytest.raises(FlexEditError, match="3 masks for 2 pictures"):
        masks.prepare_mask(torch.ones(3, 8, 8), 8, 8, batch=2)


def test_a_mask_of_no_known_form_is_reported_with_its_shape():
    with pytest.raises(FlexEditError, match=r"\(1, 3, 8, 8\)"):
        masks.prepare_mask(torch.ones(1, 3, 8, 8), 8, 8)


# The edited region


def test_outside_the_region_the_scene_is_kept_bit_for_bit():
    scene, edited = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    region = masks.feather(masks.draw("circle", 64, 64).expand(2, -1, -1), 6)
    result = masks.composite(scene, edited, region)
    outside = (region == 0).unsqueeze(1).expand_as(scene)
    assert torch.equal(result[outside], scene[outside])
    whole = (region == 1).unsqueeze(1).expand_as(scene)
    assert whole.any() and torch.equal(result[whole], edited[whole])


def test_a_small_painted_object_of_a_large_picture_is_read_back():
    scene, whole = torch.rand(1, 3, 512, 512) * 0.5, torch.zeros(1, 512, 512)
    whole[:, 100:130, 200:230] = 1  # a third of a percent
    painted = masks.paint(scene, whole, color=(1.0, 0.0, 0.0), alpha=1.0)
    assert torch.equal(masks.read_painted(scene, painted), whole)


def test_a_change_that_outgrows_the_mask_belongs_to_the_region():
    scene, mask = (
        torch.rand(1, 3, 96, 96) * 0.3,
        masks.draw("circle", 96, 96, shape_width=0.2)[None],
    )
    added = masks.draw("irregular", 96, 96, shape_width=0.6, shape_height=0.6)[None]
    elsewhere = masks.draw("circle", 96, 96, x=0.08, y=0.08, shape_width=0.1)[None]
    edited = masks.paint(scene, torch.maximum(added, elsewhere), alpha=1.0)
    edited = edited + 0.01 * torch.randn(edited.shape)
    region = torch.maximum(mask, masks.connected_change(scene, edited, mask))
    assert (region >= torch.maximum(added, mask)).all()
    assert (region <= masks.grow(torch.maximum(added, mask), 2)).all()


def test_without_a_change_nothing_is_added_to_the_mask():
    scene, mask = torch.rand(1, 3, 32, 32), masks.draw("triangle", 32, 32)[None]
    assert not masks.connected_change(scene, scene, mask).any()


def test_growing_and_shrinking_move_the_border():
    mask = masks.draw("circle", 100, 100, shape_width=0.4, shape_height=0.4)[None]
    for pixels, radius in ((8, 28), (-8, 12), (0, 20)):
        assert masks.grow(mask, pixels).sum() == pytest.approx(np.pi * radius**2, rel=0.06)


def test_feathering_stays_inside_and_leaves_the_pictures_border_alone():
    mask = masks.draw("rectangle", 64, 64, x=0.0, shape_width=1.0)[None]
    soft = masks.feather(mask, 4)
    assert (soft[mask == 0] == 0).all() and 0 < soft[0, 32, 31] < 0.3
    assert soft[0, 32, 0] == 1
    assert torch.equal(masks.feather(torch.ones(1, 8, 8), 4), torch.ones(1, 8, 8))


def test_a_crop_is_a_square_with_context():
    mask = torch.zeros(2, 100, 200)
    mask[0, 40:60, 90:110] = 1
    mask[1, 50, 100] = 1
    assert masks.bounding_crop(mask, context=2.0, minimum=16) == [
        (80, 30, 120, 70),
        (92, 42, 108, 58),
    ]


def test_a_crop_at_the_border_is_shifted_not_shrunk():
    mask = torch.zeros(1, 100, 200)
    mask[0, :10, -10:] = 1
    assert masks.bounding_crop(mask, context=3.0, minimum=16) == [(170, 0, 200, 30)]


def test_a_crop_larger_than_the_picture_is_the_picture():
    mask = torch.zeros(1, 40, 200)
    mask[0, 10:30, 20:120] = 1
    assert masks.bounding_crop(mask, context=1.2) == [(10, 0, 130, 40)]
