import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from flexedit.errors import FlexEditError
from flexedit.files import (
    Ledger,
    color_profile,
    fingerprint,
    picture_size,
    read_mask_file,
    read_picture,
    same_shape,
    write_picture,
)

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


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_the_size_of_a_picture_is_that_which_is_read(kind, orientation, tmp_path):
    picture = Image.new("RGB", (8, 5))
    exif = picture.getexif()
    if orientation is not None:
        exif[0x0112] = orientation
    picture.save(tmp_path / f"a.{kind}", exif=exif)
    for upright in (True, False):
        read = read_picture(tmp_path / f"a.{kind}", upright=upright)
        assert picture_size(tmp_path / f"a.{kind}", upright=upright) == read.shape[:2]


def test_the_size_of_a_png_costs_no_reading(tmp_path, monkeypatch):
    Image.new("RGB", (8, 5)).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", None)
    assert picture_size(tmp_path / "a.png") == (5, 8)


def test_what_is_no_picture_has_no_size(tmp_path):
    (tmp_path / "a.png").write_text("nothing")
    with pytest.raises(FlexEditError, match="cannot be read as a picture"):
        picture_size(tmp_path / "a.png")


def test_a_mask_is_what_is_opaque_or_else_white(tmp_path):
    white = np.zeros((4, 6, 4), np.uint8)
    white[:2, :, :3], white[..., 3] = 255, 255
    Image.fromarray(white).save(tmp_path / "white.png")
    white[..., 3] = 0
    white[:, :3, 3] = 255
    Image.fromarray(white).save(tmp_path / "opaque.png")
    found = [read_mask_file(tmp_path / name) for name in ("white.png", "opaque.png")]
    assert found[0].tolist() == [[1.0] * 6] * 2 + [[0.0] * 6] * 2
    assert found[1].tolist() == [[1.0] * 3 + [0.0] * 3] * 4


def test_shapes_may_differ_by_a_rounding_only():
    assert same_shape((512, 768), (64, 96)) and same_shape((100, 101), (100, 100))
    assert not same_shape((512, 768), (768, 512)) and not same_shape((100, 103), (100, 100))


def test_fingerprints_tell_files_words_and_their_order_apart(tmp_path):
    for name, content in (("a", b"12"), ("b", b"3"), ("c", b"1"), ("d", b"23")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (tmp_path / name for name in "abcd")
    found = [fingerprint(*given) for given in (([a, b],), ([b, a],), ([c, d],), ([a, b], "x"))]
    assert len(set(found)) == 4 and all(len(one) == 16 for one in found)
    with pytest.raises(FlexEditError, match="cannot be read"):
        fingerprint([tmp_path / "nothing"])


def test_a_ledger_forgets_half_a_line_that_was_torn_by_a_kill(tmp_path):
    ledger = Ledger(tmp_path / "results.jsonl")
    assert ledger.rows() == []
    ledger.add([{"out": "a"}, {"out": "b"}])
    content = ledger.file.read_bytes()
    ledger.file.write_bytes(content[:-4])
    assert ledger.rows() == [{"out": "a"}]
    ledger.add([{"out": "c"}])
    ledger.add([{"out": "d"}])
    with ledger.file.open("ab") as file:
        file.write(b"[" * 100_000 + b"\n")
    assert ledger.rows() == [{"out": "a"}, {"out": "c"}, {"out": "d"}]


def rgba(hidden: int) -> np.ndarray:
    """Left red, right clear with a colour that nobody sees"""
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :3], pixels[:, 3:, :3] = (200, 0, 0, 255), hidden
    return pixels


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tiff"])
def test_a_colour_that_transparency_hides_is_not_read(name, tmp_path):
    for hidden in (0, 255):
        Image.fromarray(rgba(hidden)).save(tmp_path / name, lossless=True, exact=True)
        read = read_picture(tmp_path / name)
        assert (read[:, :3] == (200, 0, 0)).all() and (read[:, 3:] == 128).all()


def test_the_transparent_colour_of_a_palette_is_not_read(tmp_path):
    picture = Image.fromarray(np.zeros((2, 2), np.uint8), "P")
    picture.putpalette([255, 0, 255])
    picture.save(tmp_path / "a.png", transparency=0)
    assert (read_picture(tmp_path / "a.png") == 128).all()


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).movedim(-1, 0).float() / 255


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_what_is_written_is_what_was_there_also_where_nobody_sees_it(name, tmp_path):
    write_picture(tensor(rgba(90)), tmp_path / name)
    assert (np.asarray(Image.open(tmp_path / name)) == rgba(90)).all()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_jpeg_is_laid_over_grey_and_hardly_changed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    write_picture(tensor(noise), tmp_path / "a.jpg")
    change = np.abs(np.asarray(Image.open(tmp_path / "a.jpg")).astype(int) - noise)
    assert change.mean() < 1 and change.max() < 10  # Pillow's own default: 13 and 140
    write_picture(tensor(rgba(255)), tmp_path / "b.jpg")
    assert abs(np.asarray(Image.open(tmp_path / "b.jpg"))[0, 5].astype(int) - 128).max() < 4


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff"])
def test_a_profile_of_colours_is_carried_over(name, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_picture(torch.zeros(3, 4, 4), tmp_path / name, profile)
    assert color_profile(tmp_path / name) == profile


def test_a_profile_of_other_channels_is_left_out(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", icc_profile=profile)
    assert color_profile(tmp_path / "a.png") is None


@pytest.mark.parametrize("name", ["a", "a.txt", ".png", "a.mpg"])
def test_a_picture_that_cannot_be_written_leaves_nothing_behind(name, tmp_path):
    with pytest.raises(FlexEditError, match="cannot be written"):
        write_picture(tensor(rgba(0)), tmp_path / name)
    assert not list(tmp_path.iterdir())
