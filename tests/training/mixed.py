"""A small mixture of data sets, each as it is released."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from PIL import Image

from flexedit.data.world import World, write
from tests.data.readers.made import HEIGHT, WIDTH, backdrop, with_box
from tests.data.shards import write_captions, write_pairs

BOX, OTHER = (10, 12, 30, 24), (60, 8, 20, 40)
SOURCES = {
    "coco-instances:instances.json,train": "segment",
    "refcoco:refs.p,instances.json,train": "segment",
    "instructpix2pix:ip2p": "edit",
    "llava:llava.json,train": "ask",
    "jsonl:own/index.jsonl": "own",
}
MIXED = {
    "data": [{"source": source, "group": group} for source, group in SOURCES.items()],
    "weights": {"segment": 40, "edit": 22, "ask": 18, "own": 20},
}
CAPTIONS = {"data": [{"source": "cc12m:cc12m", "group": "captions"}], "weights": {"captions": 1}}


def make_data(folder: Path) -> Path:
    """Objects of COCO with and without expressions, edits, questions without a mask, captions, and
    edits of the world that have subjects.
    """
    (folder / "train").mkdir(parents=True)
    images, annotations, refs = [], [], []
    for number in range(6):
        picture = with_box(backdrop(number), BOX, (220, 40, 40))
        Image.fromarray(picture).save(folder / "train" / f"{number}.png")
        size: dict[str, Any] = {"height": HEIGHT, "width": WIDTH}
        images.append({"id": number, "file_name": f"{number}.png", **size})
        for place, (x, y, width, height) in enumerate((BOX, OTHER)):
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            key = 2 * number + place
            row = {"id": key, "category_id": 3, "segmentation": [corners], "iscrowd": 0}
            annotations.append(row | {"image_id": number})
        said = [{"sent": "the left cup"}]
        refs.append({"ref_id": number, "ann_id": 2 * number, "image_id": number, "sentences": said})
        refs[-1] |= {"split": "train", "category_id": 3}
    categories = [{"id": 3, "name": "cup"}]
    instances = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs.p").write_bytes(pickle.dumps(refs, protocol=2))
    asked = {"from": "human", "value": "<image>\nWhat is this?"}
    talks = [asked, {"from": "gpt", "value": "A cup."}]
    rows = [{"id": str(n), "image": f"{n}.png", "conversations": talks} for n in range(6)]
    (folder / "llava.json").write_text(json.dumps(rows))
    write_pairs(folder / "ip2p", (8,))
    write_captions(folder / "cc12m", (8,))
    write(World(64, seed=7), range(8), folder / "own")
    return folder
