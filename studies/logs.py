"""What became of a study's variants.

A log is a JSONL file ``VARIANT-SEED.jsonl``: first its facts, then the curve of the training, then
a row of metrics for each case (`metrics.score`). What was only run otherwise (another reply,
another λ) has a log of its own with the curve of the model that was run; that of the model that all
start from has no curve. Beside the logs of one seed lie ``pictures/VARIANT-SEED.png``: the results
of some cases, in a row. What is kept for good is packed into one Parquet file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flexedit.errors import FlexEditError
from flexedit.files import read_picture

SHOWN_SEED = 0  # whose pictures are kept
DIGITS = 4
KEYS = ("case", "form", "group", "operation", "kind", "subject_setting", "status")
NUMBERS = (
    "success", "label_right", "iou", "scribble_iou",
    "psnr", "fg_psnr", "bg_psnr", "bg_ssim",
)  # fmt: skip


@dataclass(frozen=True)
class Log:
    """facts: variant, seed, fingerprints of start and judge … · curve: a row per logged step ·
    rows: metrics
    """

    facts: Mapping[str, Any]
    curve: tuple[Mapping[str, float], ...]
    rows: tuple[Mapping[str, Any], ...]

    def write(self, path: Path) -> None:
        lines = [{"facts": self.facts}]
        lines += [{"curve": rounded(row)} for row in self.curve]
        lines += [{"row": {k: row[k] for k in KEYS} | rounded(row, NUMBERS)} for row in self.rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)

    @property
    def core_minutes(self) -> float | None:
        """Of the training, by the clock times the cores that it used; None if unknown."""
        known = self.facts.get("core_minutes")
        if known is not None or "threads" not in self.facts or len(self.curve) < 2:
            return known
        return core_minutes(self.curve, self.facts["threads"])

    @classmethod
    def read(cls, path: Path) -> Log:
        """FlexEditError for a file that is not a log."""
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            facts = lines[0]["facts"]
            curve = tuple(line["curve"] for line in lines[1:] if "curve" in line)
            rows = tuple(
                dict.fromkeys(NUMBERS) | line["row"] for line in lines[1:] if "row" in line
            )
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise FlexEditError(
                f"{path} is not a log of a study ({error!r}). Delete it, run the variant again."
            ) from error
        return cls(facts, curve, rows)


def core_minutes(curve: Sequence[Mapping[str, float]], threads: int) -> float:
    """Of a training's stage by its curve, at its fastest pace: it may have been paused, or other
    programs have run beside it.
    """
    steps, seconds = ([row[key] for row in curve] for key in ("step", "seconds"))
    pace = (np.diff(seconds) / np.diff(steps)).min()
    return pace * steps[-1] * threads / 60


def rounded(row: Mapping[str, Any], keys: Iterable[str] | None = None) -> dict[str, float]:
    """The numbers of a row that has them, to a few digits."""
    kept = row if keys is None else {key: row.get(key) for key in keys}
    return {key: round(value, DIGITS) for key, value in kept.items() if value is not None}


def read_logs(folder: Path) -> list[Log]:
    """Those of a folder, or of a file that `pack` wrote.

    FlexEditError where there are none, and for variants that started from different weights or
    were judged by different judges.
    """
    packed = folder.is_file()
    logs = unpack(folder) if packed else [Log.read(path) for path in sorted(folder.glob("*.jsonl"))]
    if not logs:
        raise FlexEditError(f"There are no logs in {folder}. Run the study first.")
    if len({log.facts.get("start") for log in logs}) > 1:
        raise FlexEditError(
            f"The logs in {folder} are of variants that started from different weights, which "
            "cannot be compared. Keep those of one start, or run the study into another folder."
        )
    if len({log.facts.get("judge") for log in logs}) > 1:
        raise FlexEditError(
            f"The results in {folder} were judged by different judges, which cannot be compared. "
            "Delete the logs of the older one and run the study again with the same --out: what is "
            "trained there is only measured anew."
        )
    return logs


def pack(logs: Sequence[Log], file: Path) -> None:
    """Writes logs as one Parquet file, a row for each."""
    pyarrow = require_pyarrow()
    rows = [{"facts": log.facts, "curve": log.curve, "rows": log.rows} for log in logs]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, file, compression="zstd", compression_level=19)


def unpack(file: Path) -> list[Log]:
    """What `pack` wrote. FlexEditError for a file of another kind."""
    pyarrow = require_pyarrow()
    try:
        return [
            Log(present(row["facts"]), tuple(map(present, row["curve"])), tuple(row["rows"]))
            for row in pyarrow.parquet.read_table(file).to_pylist()
        ]
    except (OSError, pyarrow.ArrowException, KeyError) as error:
        raise FlexEditError(f"{file} has no logs of a study ({error!r}).") from error


def present(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without the columns that only other logs have."""
    return {key: value for key, value in row.items() if value is not None}


def require_pyarrow() -> Any:
    """FlexEditError without it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise FlexEditError("Packed logs need pyarrow: pip install pyarrow") from error
    return pyarrow


def write_pictures(logs: Path, name: str, pictures: Sequence[np.ndarray | None]) -> None:
    """Keeps results (H, W, 3) of one size as one picture; grey for a case that failed."""
    size = next((picture.shape for picture in pictures if picture is not None), (1, 1, 3))
    whole = [np.full(size, 128, np.uint8) if picture is None else picture for picture in pictures]
    path = picture_file(logs, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(whole, axis=1)).save(path)


def read_pictures(logs: Path, name: str) -> list[np.ndarray]:
    """What `write_pictures` kept: square pictures."""
    strip = read_picture(picture_file(logs, name))
    return np.split(strip, strip.shape[1] // strip.shape[0], axis=1)


def picture_file(logs: Path, name: str) -> Path:
    return logs / "pictures" / f"{name}.png"
