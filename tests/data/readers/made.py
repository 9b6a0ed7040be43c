"""Small pictures with boxes on them, of which data sets are made here."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 72, 96
Box = tuple[int, int, int, int]  # x, y, width, height


def backdrop(seed: int) -> np.ndarray:
    """Smooth noise (H, W, 3) uint8 of middling brightness"""
    cells = np.random.default_rng(seed).integers(60, 160, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def with_box(picture: np.ndarray, box: Box, color) -> np.ndarray:
    """A picture with a filled box"""
    x, y, width, height = box
    painted = picture.copy()
    painted[y : y + height, x : x + width] = color
    return painted


def where(box: Box) -> np.ndarray:
    return with_box(np.zeros((HEIGHT, WIDTH, 3), np.uint8), box, 1)[..., 0] > 0


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
