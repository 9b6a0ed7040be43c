"""Rows that lie one after the other in parquet files or in tars (webdataset), on a disk or in a
bucket, read by ``datasets``.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import FlexEditError
from ...files import read_picture
from ..order import LANES
from ..sample import Sample
from .reader import Reader, Row, Rows

SIZES = "sizes.json"  # beside tars: number of rows by file name, as webdataset's tools write it
MEMBER = re.compile(r"((?:.*/)?[^./]+)\.[^/]+")  # KEY.ENDINGS, as webdataset has it
AT_ONCE = 8  # rows that datasets hands over
Cells = dict[str, Any]


class Shards(Rows):
    """The rows of all files of a folder, or of an address with ``*``, that have one ending."""

    def __init__(
        self, place: str, ending: Literal["parquet", "tar"], columns: Sequence[str] = ()
    ) -> None:
        """columns: what parquet files must have, and what is read of them

        Raises FlexEditError for no files, and for some that cannot be read.
        """
        self.place, self.ending, self.columns = place, ending, list(columns)
        with readable(place):
            from fsspec.core import url_to_fs

            fs, path = url_to_fs(place)
            if path.endswith(f".{ending}"):
                found = fs.glob(path)
            else:
                found = fs.glob(f"{path.rstrip('/')}/**/*.{ending}")
            self.files = [str(file) for file in sorted(found)]
            if not self.files:
                raise FlexEditError(f"{place} has no *.{ending} files")
            self.addresses = self.files
            if "://" in place:
                self.addresses = [fs.unstrip_protocol(file) for file in self.files]
            count = rows_of_parquet if ending == "parquet" else rows_of_tar
            self.ends = np.cumsum([count(fs, file, self.columns) for file in self.files])
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        self._forget()
        return self.__dict__

    def _forget(self) -> None:
        """What is open belongs to one process: others would move on in its files."""
        self._process = os.getpid()
        self._opened: Any = None
        self._streams: OrderedDict[tuple[int, int], Iterator[Cells]] = OrderedDict()
        self._windows: OrderedDict[range, list[Cells]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def row(self, index: int) -> Row:
        shard, offset = self._find(index)
        return Row(f"{Path(self.files[shard]).name}, row {offset + 1}", (shard, offset), index)

    def _find(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self.ends, index, "right"))
        return shard, index - int(self.ends[shard - 1] if shard else 0)

    def cells(self, index: int) -> Cells:
        """What is in a row, pictures as {"bytes": …}.

        Raises FlexEditError for a file that cannot be read.
        """
        for window, rows in self._windows.items():
            if index in window and self._process == os.getpid():
                return rows[window.index(index)]
        return self._read(range(index, index + 1))[0]

    def load(self, window: range) -> None:
        """Keeps these rows in memory, and as many other stretches as there are lanes."""
        if self._process != os.getpid():
            self._forget()
        if window not in self._windows:
            self._windows[window] = self._read(window)
            while len(self._windows) > LANES:
                self._windows.popitem(last=False)

    def _read(self, window: range) -> list[Cells]:
        if self._process != os.getpid():
            self._forget()
        rows: list[Cells] = []
        while len(rows) < len(window):
            shard, offset = self._find(window[len(rows)])
            wanted = min(len(window) - len(rows), int(self.ends[shard]) - window[len(rows)])
            with readable(self.files[shard]):
                stream = self._streams.pop((shard, offset), None) or self._open(shard, offset)
                found = list(islice(stream, wanted))
            if len(found) < wanted:
                raise FlexEditError(
                    f"{self.files[shard]} has fewer rows than {SIZES} or its *_stats.json says"
                )
            rows += found
            self._streams[shard, offset + wanted] = stream
            while len(self._streams) > LANES:
                self._streams.popitem(last=False)
        return rows

    def _open(self, shard: int, offset: int) -> Iterator[Cells]:
        if self._opened is None:
            from datasets import load_dataset

            columns = {"columns": self.columns} if self.columns else {}
            kind = "parquet" if self.ending == "parquet" else "webdataset"
            self._opened = load_dataset(
                kind, data_files=self.addresses, split="train", streaming=True, **columns
            ).decode(False)
        rows = self._opened.shard(len(self.files), shard).skip(offset)
        for some in rows.iter(AT_ONCE):  # unlike its own loop, not shared among a loader's workers
            for values in zip(*some.values(), strict=True):
                yield dict(zip(some, values, strict=True))


class ShardReader(Reader):
    """A data set of shards. What it has to say is what comes of a row's cells."""

    streams = True
    shards: Callable[[], Shards]

    @cached_property
    def rows(self) -> Shards:
        return self.shards()

    @property
    def identity(self) -> str:
        return f"{self.name} {len(self.rows)} {[Path(file).name for file in self.rows.files]}"

    def expect(self, window: range) -> None:
        self.rows.load(window)

    def read(self, row: Row, turn: int = 0) -> Sample:
        return self.sample(self.rows.cells(row.content), row)

    @abstractmethod
    def sample(self, cells: Cells, row: Row) -> Sample:
        """Raises FlexEditError for a row of no use."""


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Raises FlexEditError for what fails inside: whatever buckets, archives and columns raise."""
    try:
        yield
    except FlexEditError:
        raise
    except ImportError as error:
        raise FlexEditError(
            "Reading parquet files and tars needs datasets: pip install 'flexedit[data]'"
        ) from error
    except Exception as error:
        raise FlexEditError(f"{place} cannot be read ({type(error).__name__}: {error})") from error


def rows_of_parquet(fs: Any, file: str, columns: Sequence[str]) -> int:
    from pyarrow.parquet import ParquetFile

    with fs.open(file) as opened:
        table = ParquetFile(opened)
        if missing := set(columns) - set(table.schema_arrow.names):
            raise FlexEditError(
                f"{file} lacks the columns {', '.join(sorted(missing))}; it has "
                f"{', '.join(table.schema_arrow.names)}"
            )
        return int(table.metadata.num_rows)


def rows_of_tar(fs: Any, file: str, columns: Sequence[str]) -> int:
    """As ``sizes.json`` or img2dataset's ``…_stats.json`` beside it says; else it is counted."""
    folder, _, name = file.rpartition("/")
    if fs.exists(sizes := f"{folder}/{SIZES}"):
        return int(json.loads(fs.cat_file(sizes))[name])
    if fs.exists(stats := file.removesuffix(".tar") + "_stats.json"):
        return int(json.loads(fs.cat_file(stats))["successes"])
    with fs.open(file) as opened, tarfile.open(fileobj=opened) as archive:
        keys = (MEMBER.fullmatch(member.name) for member in archive if member.isfile())
        return sum(1 for _ in groupby(key[1] for key in keys if key))


def picture_of(cell: Any, mode: str = "RGB", *, upright: bool = True) -> np.ndarray:
    """A picture in a row (H, W, C) uint8. Raises FlexEditError for none."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not data:
        raise FlexEditError("a picture is missing")
    return read_picture(io.BytesIO(data), mode, upright=upright)
