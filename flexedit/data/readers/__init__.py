"""Readers of data sets, to train on and to measure on; `reader` says what each of them can do."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ...errors import FlexEditError
from .reader import Reader

# A data set is written NAME:PATHS; MODULE.CLASS reads it. What is in brackets may be left out.
DATA_SETS = {
    "coco": ("ANNOTATIONS.json,PICTURES,EDITS.jsonl", "coco.Coco"),
    "coco-instances": ("ANNOTATIONS.json,PICTURES", "instances.Instances"),
    "refcoco": ("REFS.p,INSTANCES.json,PICTURES[,SPLIT]", "refcoco.RefCoco"),
    "grefcoco": ("GREFS.json,INSTANCES.json,PICTURES[,SPLIT]", "refcoco.GRefCoco"),
    "coco-stuff": ("MAPS,PICTURES,LABELS.txt", "stuff.CocoStuff"),
    "magicbrush": ("FOLDER", "magicbrush.MagicBrush"),
    "reasonseg": ("JSONS,PICTURES,MASKS", "reasonseg.ReasonSeg"),
    "reasonedit": ("PAIRS.json[,PICTURES]", "pairs.ReasonEdit"),
    "ipr2pr": ("FOLDER", "ipr2pr.IPr2Pr"),
    "instructpix2pix": ("FOLDER", "instructpix2pix.reader_of"),
    "mimicit": ("INSTRUCTIONS.json,PICTURES", "mimicit.MimicIt"),
    "llava": ("CONVERSATIONS.json,PICTURES", "llava.LlavaInstruct"),
    "cc12m": ("FOLDER or FILE.tsv", "cc12m.reader_of"),
    "advancededit": ("PAIRS.json[,PICTURES]", "pairs.AdvancedEdit"),
    "jsonl": ("FILE.jsonl", "index.Index"),
}


def usage(*names: str) -> str:
    return " or ".join(f"{name}:{DATA_SETS[name][0]}" for name in names)


def data_set(text: str) -> Reader | None:
    """The reader of what is written as ``usage`` says, None for what does not begin so.

    Raises FlexEditError for other paths than it says.
    """
    name, colon, where = text.partition(":")
    if name not in DATA_SETS or not colon:
        return None
    paths, made_by = DATA_SETS[name]
    needed, allowed = paths.partition("[")[0].count(",") + 1, paths.count(",") + 1
    found = where.split(",", allowed - 1)
    if not all(found) or len(found) < needed:
        raise FlexEditError(f"{text} has other paths than {usage(name)}.")
    module, kind = made_by.split(".")
    reader: Reader = getattr(import_module(f".{module}", __package__), kind)(*found)
    return reader


def reader_from(text: str) -> Reader:
    """The reader of a data set, or else of the folder of that name with its index."""
    from .index import Index

    return data_set(text) or Index(text)


def placed(text: str, folder: Path) -> str:
    """What ``--data`` takes, with paths that start in ``folder``."""
    name, colon, where = text.partition(":")
    if name not in DATA_SETS:
        return str(folder / text)
    kinds = DATA_SETS[name][0].replace("[", "").replace("]", "").split(",")
    paths = [
        path if kind == "SPLIT" or "://" in path else str(folder / path)
        for kind, path in zip(kinds, where.split(",", len(kinds) - 1), strict=False)
    ]
    return name + colon + ",".join(paths)
