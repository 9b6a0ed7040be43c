import numpy as np
import pytest
import torch

from flexedit import masks
from flexedit.errors import FlexEditError


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


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
