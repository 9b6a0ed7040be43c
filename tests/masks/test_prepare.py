import pytest
import torch

from flexedit import masks
from flexedit.errors import FlexEditError


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
