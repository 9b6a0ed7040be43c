import numpy as np
import pytest
import torch

from flexedit import masks
from flexedit.masks import regions


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


@pytest.mark.parametrize("pixels", [-9, -1, 1, 4, 20])
def test_a_large_mask_grows_and_fades_in_bands_as_it_would_at_once(pixels, monkeypatch):
    noise = torch.rand(3, 1, 12, 9, generator=torch.Generator().manual_seed(0))
    blobs = torch.nn.functional.interpolate(noise, (120, 90), mode="bicubic")[:, 0] > 0.4
    mask = torch.cat([blobs, torch.ones(1, 120, 90) > 0, torch.zeros(1, 120, 90) > 0]).float()
    ways = (lambda: masks.grow(mask, pixels), lambda: masks.feather(mask, abs(pixels)))
    whole = [way() for way in ways]
    monkeypatch.setattr(regions, "BAND", 1)
    heights = []
    distance = regions._distance
    monkeypatch.setattr(regions, "_distance", lambda one: heights.append(len(one)) or distance(one))
    assert all(torch.equal(way(), before) for way, before in zip(ways, whole, strict=True))
    assert max(heights) <= 6 * (abs(pixels) + 1)


def test_feathering_stays_inside_and_leaves_the_pictures_border_alone():
    mask = masks.draw("rectangle", 64, 64, x=0.0, shape_width=1.0)[None]
    soft = masks.feather(mask, 4)
    assert (soft[mask == 0] == 0).all() and 0 < soft[0, 32, 31] < 0.3
    assert soft[0, 32, 0] == 1
    assert torch.equal(masks.feather(torch.ones(1, 8, 8), 4), torch.ones(1, 8, 8))
