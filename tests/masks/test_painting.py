import pytest
import torch

from flexedit import masks


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


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


def test_a_small_painted_object_of_a_large_picture_is_read_back():
    scene, whole = torch.rand(1, 3, 512, 512) * 0.5, torch.zeros(1, 512, 512)
    whole[:, 100:130, 200:230] = 1  # a third of a percent
    painted = masks.paint(scene, whole, color=(1.0, 0.0, 0.0), alpha=1.0)
    assert torch.equal(masks.read_painted(scene, painted), whole)
