"""Data sets in shards, of small pictures that say which row they are of."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16


def picture(number: int) -> np.ndarray:
    """A plain colour, by the row's number"""
    return np.full((SIDE, SIDE, 3), (number % 256, number // 256, 128), np.uint8)


def encoded(array: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return file.getvalue()


def cell(array: np.ndarray) -> dict:
    return {"bytes": encoded(array), "path": None}


def write_pairs(folder: Path, counts, start: int = 0, row_group_size: int = 7) -> None:
    """InstructPix2Pix as parquet; the n-th row's instruction is "edit n"."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for file, count in enumerate(counts):
        numbers = range(start, start + count)
        start += count
        table = pa.table(
            {
                "original_image": [cell(picture(number)) for number in numbers],
                "edit_prompt": [f"edit {number}" for number in numbers],
                "edited_image": [cell(picture(number)[::-1]) for number in numbers],
                "edited_prompt": ["" for _ in numbers],
            }
        )
        pq.write_table(table, folder / f"train-{file:05d}.parquet", row_group_size=row_group_size)


def write_captions(folder: Path, counts, endings=("jpg", "txt", "json")) -> None:
    """img2dataset's tars; the n-th row's caption is "caption n"."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for file, count in enumerate(counts):
        with tarfile.open(folder / f"{file:05d}.tar", "w") as archive:
            for _ in range(count):
                contents = {
                    "jpg": encoded(picture(number), "JPEG"),
                    "txt": f"caption {number}".encode(),
                    "json": json.dumps({"caption": f"caption {number}"}).encode(),
                }
                for ending in endings:
                    member = tarfile.TarInfo(f"{file:05d}{number:04d}.{ending}")
                    member.size = len(contents[ending])
                    archive.addfile(member, io.BytesIO(contents[ending]))
                number += 1
