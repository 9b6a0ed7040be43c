import io

import numpy as np
import pytest
import torch
from PIL import Image

from flexedit import masks
from flexedit.benchmark.sources import shape_over
from flexedit.data.readers.reader import edited_region
from flexedit.errors import FlexEditError
from tests.data.readers.made import backdrop, where, with_box


@pytest.mark.parametrize("quality", [70, 95])
def test_lossy_files_are_no_difference(quality):
    scene, box = backdrop(1), (30, 20, 30, 30)
    file = io.BytesIO()
    Image.fromarray(with_box(scene, box, (230, 30, 30))).save(file, "JPEG", quality=quality)
    region = edited_region(scene, np.asarray(Image.open(file)), where((40, 30, 10, 10)))
    near = masks.grow(torch.from_numpy(where(box))[None].float(), 3)[0].numpy() > 0
    assert (region >= where(box)).all() and (region <= near).all()


def test_changes_far_from_the_mask_belong_to_the_region_too():
    scene = backdrop(2)
    truth = with_box(with_box(scene, (5, 5, 10, 10), 255), (70, 50, 10, 10), 255)
    region = edited_region(scene, truth, where((0, 0, 4, 4)))
    assert region[10, 10] and region[55, 75] and region[1, 1] and not region[40, 40]


@pytest.mark.parametrize("kind", masks.KINDS)
def test_a_shape_is_drawn_even_on_an_object_within_a_larger_one(kind):
    cup, table = where((40, 30, 14, 14)), where((5, 10, 85, 60))
    for seed in range(5):
        mask, turn = shape_over(kind, cup, np.random.default_rng(seed), [table])
        assert (mask & cup).sum() >= 0.08 * cup.sum() and np.isfinite(turn)


def test_an_object_too_small_for_a_shape_is_reported():
    with pytest.raises(FlexEditError, match=r"no circle open covers .* 1 pixels; leave this row"):
        shape_over("circle open", where((0, 0, 1, 1)), np.random.default_rng(0))
