"""Readers of data sets, to train on and to measure on; `reader` says what each of them can do."""

from __future__ import annotations

from importlib import import_module

from .reader import Reader

# A data set is written NAME:PATHS; flexedit/data/readers/NAME.py has the class that reads it.
DATA_SETS = {
    "coco": ("ANNOTATIONS.json,PICTURES,EDITS.jsonl", "Coco"),
    "magicbrush": ("FOLDER", "MagicBrush"),
}
USAGE = " or ".join(f"{name}:{paths}" for name, (paths, _) in DATA_SETS.items())


def data_set(text: str) -> Reader | None:
    """The reader of what is written as USAGE says, None for what is not."""
    name, _, where = text.partition(":")
    if name not in DATA_SETS:
        return None
    usage, kind = DATA_SETS[name]
    paths = where.split(",", usage.count(","))
    if not all(paths) or len(paths) <= usage.count(","):
        return None
    reader: Reader = getattr(import_module(f".{name}", __package__), kind)(*paths)
    return reader


def reader_from(text: str) -> Reader:
    """The reader of a data set, or else of the folder of that name with its index."""
    from .index import Index

    return data_set(text) or Index(text)
