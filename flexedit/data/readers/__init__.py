"""Readers of data sets, to train on and to measure on; `reader` says what each of them can do."""

from __future__ import annotations

import re

from .reader import Reader

DATA_SETS = re.compile(r"(coco):([^,]+),([^,]+),([^,]+)|(magicbrush):(.+)")
USAGE = "coco:ANNOTATIONS.json,PICTURES,EDITS.jsonl or magicbrush:FOLDER"


def reader_from(text: str) -> Reader:
    """A data set that is written as USAGE says; else the folder of that name, with its index."""
    from .coco import Coco
    from .index import Index
    from .magicbrush import MagicBrush

    if not (found := DATA_SETS.fullmatch(text)):
        return Index(text)
    return Coco(*found.group(2, 3, 4)) if found[1] else MagicBrush(found[6])
