import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexedit.errors import FlexEditError
from flexedit.pictures import read_picture

GREYS = np.array([[0, 257, 1000], [20000, 40000, 65535]])
EXPECTED = np.array([[0, 1, 4], [78, 156, 255]])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.png", np.uint16), ("a.tiff", np.uint16), ("b.tiff", ">u2"), ("a.pgm", np.uint16)],
)
def test_greys_of_16_bits_are_scaled_to_8(name, dtype, tmp_path):
    Image.fromarray(GREYS.astype(dtype)).save(tmp_path / name)
    assert (read_picture(tmp_path / name, "L") == EXPECTED).all()
    assert (read_picture(tmp_path / name) == EXPECTED[..., None]).all()
    assert read_picture(tmp_path / name, None, upright=True).shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("mask.tiff", np.float32([[0.0, 1.0]])),
        ("mask.pfm", np.float32([[0.0, 1.0]])),
        ("mask.tiff", np.int32([[0, 2**20]])),
        ("mask.tiff", np.int32([[0, 255]])),
    ],
)
def test_numbers_of_which_nobody_knows_the_white_are_refused(name, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(FlexEditError, match=rf"{name} cannot be read .* save it with 8 or 16"):
        read_picture(tmp_path / name, "L")


@pytest.mark.parametrize(("mode", "clear"), [("P", 3), ("L", 3), ("RGB", (3, 3, 3))])
def test_one_color_may_be_the_transparent_one(mode, clear, tmp_path):
    picture = Image.new(mode, (4, 4), 5 if mode != "RGB" else (5, 5, 5))
    if mode == "P":
        picture.putpalette(range(3 * 6))
    picture.putpixel((1, 0), clear)
    picture.save(tmp_path / "a.png", transparency=clear)
    alpha = read_picture(tmp_path / "a.png", None)[..., 3]
    assert alpha[0, 1] == 0 and alpha.sum() == 15 * 255
    assert read_picture(tmp_path / "a.png").shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 3), ("L", 3), ("P", 3), ("CMYK", 3), ("LA", 4), ("RGBA", 4)]
)
def test_what_cannot_be_transparent_has_three_channels(mode, channels, tmp_path: Path):
    Image.new(mode, (5, 4)).save(tmp_path / "a.tiff")
    assert read_picture(tmp_path / "a.tiff", None).shape == (4, 5, channels)


def test_what_is_read_from_memory_has_no_name():
    with pytest.raises(FlexEditError, match="a picture cannot be read"):
        read_picture(io.BytesIO(b"nothing"))
