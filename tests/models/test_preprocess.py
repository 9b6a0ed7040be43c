import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPImageProcessor

from flexedit.errors import FlexEditError
from flexedit.models.preprocess import CLIP_MEAN, CLIP_STD, Preprocess

SHOW = Preprocess(32)
RAW = Preprocess(32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # pixels as they are


@pytest.mark.parametrize("size", [(32, 32), (9, 16), (90, 160), (500, 3), (3, 500), (1, 1)])
def test_any_picture_becomes_a_square_of_the_encoders_side(size):
    assert SHOW(torch.rand(2, 3, *size)).shape == (2, 3, 32, 32)


def test_a_picture_of_the_right_size_is_only_normalised():
    picture = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(SHOW(picture), (picture - mean) / std)


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (9, 16), (300, 100)])
@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_mark_in_the_far_corner_is_seen(size, corner):
    picture = torch.zeros(1, 3, *size)
    marked = picture.clone()
    height, width = (max(1, side // 8) for side in size)
    rows = slice(0, height) if corner[0] == 0 else slice(-height, None)
    columns = slice(0, width) if corner[1] == 0 else slice(-width, None)
    marked[:, :, rows, columns] = 1
    assert (RAW(marked) - RAW(picture)).amax() > 0.5


def test_a_wide_picture_is_centred_between_margins_of_the_mean():
    seen = SHOW(torch.ones(1, 3, 8, 16))  # 8 × 16 → 16 × 32, margins of 8
    assert (seen[:, :, :8] == 0).all() and (seen[:, :, 24:] == 0).all()
    assert (seen[:, :, 8:24] > 1).all()


def by_clips_own_processor(picture, **settings):
    pixels = (picture[0].movedim(0, -1) * 255).round().byte().numpy()
    processor = CLIPImageProcessor(do_normalize=False, **settings)
    return processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("size", [(48, 64), (91, 50), (32, 32), (32, 45), (91, 64)])
def test_a_picture_is_squashed_or_cropped_as_released_models_saw_it(size):
    coarse = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    picture = F.interpolate(coarse, size, mode="bilinear")
    squashed = by_clips_own_processor(
        picture, size={"height": 32, "width": 32}, do_center_crop=False
    )
    cropped = by_clips_own_processor(
        picture, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    for fit, wanted in (("squashed", squashed), ("cropped", cropped)):
        seen = replace(RAW, fit=fit)(picture)
        assert (seen - wanted).abs().amax() < 0.02  # theirs is of 8 bits


def test_proportions_are_kept():
    picture = torch.zeros(1, 3, 20, 40)
    picture[:, :, 5:15, 10:20] = 1  # a square of a quarter of the width
    seen = RAW(picture)[0, 0] > 0.5
    assert seen.any(0).sum() == seen.any(1).sum() == 8


@pytest.mark.parametrize("size", [(7, 5), (300, 200)])
def test_resizing_stays_within_the_pictures_own_colours(size):
    checker = (torch.arange(size[0])[:, None] + torch.arange(size[1])) % 2
    seen = RAW(checker.float().expand(1, 3, -1, -1))
    assert seen.amin() >= 0 and seen.amax() <= 1


def test_a_large_picture_is_averaged_not_sampled():
    stripes = (torch.arange(320) % 2).float().expand(1, 3, 320, -1)
    assert (RAW(stripes)[..., 2:-2, 2:-2] - 0.5).abs().amax() < 0.05


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_mean_and_deviation_are_read_from_the_folder(name, tmp_path):
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    wrapped = {"image_processor": values} if name.startswith("processor") else values
    (tmp_path / name).write_text(json.dumps(wrapped))
    preprocess = Preprocess.from_folder(tmp_path, 24)
    assert preprocess == Preprocess(24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, " has no preprocessor_config.json"),
        ("{}", " has no preprocessor_config.json"),
        ("not json", "/preprocessor_config.json is not valid JSON"),
    ],
)
def test_a_folder_without_them_is_named(text, complaint, tmp_path):
    if text is not None:
        (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(FlexEditError, match=tmp_path.name + complaint):
        Preprocess.from_folder(tmp_path, 24)
