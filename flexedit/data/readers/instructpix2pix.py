"""InstructPix2Pix (arXiv 2211.09800): pairs of generated pictures, in the authors' folders or as
parquet files (``timbrooks/instructpix2pix-clip-filtered``).

Folders have ``seeds.json``, [[NAME, [SEED, …]], …], and for each NAME ``prompt.json``, SEED_0.jpg
and SEED_1.jpg. Training takes the first 90 %, as the authors do. There are no masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ...errors import FlexEditError
from ...files import read_json, read_picture
from ..sample import Sample
from .reader import Reader, Row, pair
from .shards import Cells, ShardReader, Shards, picture_of

SEEDS = "seeds.json"
TRAINED = 0.9


def reader_of(place: str) -> Reader:
    """For what is there"""
    return Folders(place) if (Path(place) / SEEDS).is_file() else Parquet(place)


class Folders(Reader):
    name = "instructpix2pix"

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @property
    def files(self) -> Sequence[Path]:
        return (self.folder / SEEDS,)

    @cached_property
    def rows(self) -> Sequence[Row]:
        names: Any = read_json(self.files[0])
        try:
            seeds = [(str(name), str(seed)) for name, seeds in names for seed in sorted(seeds)]
            kept = {name for name, _ in names[: int(TRAINED * len(names))]}
        except (TypeError, ValueError, KeyError) as error:
            raise FlexEditError(
                f"{self.files[0]} must be a list of names with their seeds, "
                '[["0000132", ["127380018"]]]'
            ) from error
        return [
            Row(f"{name}, seed {seed}", (number,), (name, seed))
            for number, (name, seed) in enumerate(seeds)
            if name in kept
        ]

    def read(self, row: Row, turn: int = 0) -> Sample:
        name, seed = row.content
        prompt = read_json(self.folder / name / "prompt.json")
        scene, target = (
            read_picture(self.folder / name / f"{seed}_{side}.jpg", upright=True) for side in (0, 1)
        )
        return pair(scene, target, str(prompt["edit"]), name=f"{name}-{seed}")


class Parquet(ShardReader):
    name = "instructpix2pix"

    def __init__(self, place: str) -> None:
        columns = ("original_image", "edit_prompt", "edited_image")
        self.shards = partial(Shards, place, "parquet", columns)

    def sample(self, cells: Cells, row: Row) -> Sample:
        scene, target = (picture_of(cells[name]) for name in ("original_image", "edited_image"))
        return pair(scene, target, cells["edit_prompt"], name=row.where)
