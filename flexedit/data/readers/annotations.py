"""Annotation files in COCO's format, and the masks in them, laid over pictures as they are seen.

H × W height and width of a picture that is upright, as its camera was held
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import FlexEditError
from ...files import Frame, read_json, same_shape

FAR = 10  # picture sizes; no honest polygon lies farther out
IDS = {"images": ["id"], "annotations": ["id", "image_id", "category_id"], "categories": ["id"]}

Row = dict[str, Any]
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Annotations:
    """What a file says: rows by id, which is a text whatever it is in the file."""

    file: Path
    images: Mapping[str, Row]
    annotations: Mapping[str, Row]
    categories: Mapping[str, Row]
    of_image: Mapping[str, list[Row]]

    @classmethod
    def read(cls, file: Path) -> Annotations:
        """Raises FlexEditError for what is not in COCO's format, and for an id that is twice."""
        content = read_json(file)
        tables: dict[str, dict[str, Row]] = {}
        try:
            for part, ids in IDS.items():
                table = tables[part] = {}
                for row in content[part]:
                    row |= {name: str(row[name]) for name in ids}
                    if row["id"] in table:
                        raise FlexEditError(f"{file}: the id {row['id']} is twice among {part}.")
                    table[row["id"]] = row
        except (KeyError, TypeError, AttributeError) as error:
            raise FlexEditError(
                f"{file} cannot be read as COCO-format annotations ({error!r}): it must have "
                "images, annotations and categories that refer to each other by id."
            ) from error
        of_image = defaultdict(list)
        for row in tables["annotations"].values():
            of_image[row["image_id"]].append(row)
        return cls(file, **tables, of_image=of_image)

    def image(self, image_id: str) -> Row:
        """Raises FlexEditError for one that there is not, or that has no file name."""
        image = self.images.get(image_id)
        if image is None:
            raise FlexEditError(f"{self.file} has no image with the id {image_id}")
        if not isinstance(image.get("file_name"), str):
            raise FlexEditError(f"the image {image_id} has no file_name in {self.file}")
        return image

    def label(self, annotation: Row) -> str:
        """The name of its category. Raises FlexEditError for one that there is not."""
        category = annotation["category_id"]
        if category not in self.categories:
            raise FlexEditError(
                f"the annotation {annotation['id']} has the category {category}, "
                f"which {self.file} does not list"
            )
        name = self.categories[category].get("name")
        if not isinstance(name, str):
            raise FlexEditError(f"the category {category} has no name in {self.file}")
        return name

    def mask(self, annotation: Row, frame: Frame) -> np.ndarray:
        """The mask of an annotation over its picture, (H, W) bool.

        Raises FlexEditError as `mask_of` does, and for a mask that is empty.
        """
        where = f"the annotation {annotation['id']}"
        image = self.images.get(annotation["image_id"], {})
        sides = image.get("height"), image.get("width")
        known = all(isinstance(side, int) and side > 0 for side in sides)
        mask = mask_of(annotation.get("segmentation"), sides if known else None, frame, where)
        if not mask.any():
            raise FlexEditError(f"the mask of {where} is empty; choose another object")
        return mask

    def others(self, annotation: Row, frame: Frame) -> tuple[np.ndarray, ...]:
        """The masks of the other objects in the picture that have a shape, without crowds."""
        return tuple(
            self.mask(other, frame)
            for other in self.of_image[annotation["image_id"]]
            if other is not annotation and other.get("segmentation") and not other.get("iscrowd")
        )


def mask_of(shapes: Any, annotated: Any, frame: Frame, where: str) -> np.ndarray:
    """What an annotation calls its segmentation, over its picture as it is seen, (H, W) bool.

    It is polygons, or run lengths, compressed or not; several unite. Both may have been made of the
    picture as it is stored or as it is seen, or of a larger or smaller one: run lengths say of
    which size, of polygons its image does, in ``annotated``. Where sizes cannot tell (squares, half
    turns) or say nothing, it is as stored, which is how COCO's own are.

    Raises FlexEditError for none, for numbers that cannot be of its picture, and for other sizes.
    """
    parts = parts_of(shapes, where)
    made = annotated
    if isinstance(parts[0], dict):
        size = parts[0].get("size")
        made = tuple(size) if isinstance(size, list) else ()
    size, is_stored = laid_over(made, frame, where)
    if isinstance(parts[0], dict):
        masks = [runs_mask(part.get("counts"), made, where) for part in parts]
        mask = np.logical_or.reduce(masks)
        if mask.shape != size:
            shares = Image.fromarray(mask.astype(np.float32))
            mask = np.asarray(shares.resize(size[::-1], Image.Resampling.BOX)) > 0.5
    else:
        height, width = made or size
        mask = polygons_mask(parts, (size[1] / width, size[0] / height), size, where)
    return frame.upright(mask) if is_stored else mask


def laid_over(made: Any, frame: Frame, where: str) -> tuple[Size, bool]:
    """Over which size of its picture a mask of the size ``made`` lies, and whether as stored."""
    if made is None:
        return frame.stored, True
    fits = len(made) == 2 and all(isinstance(side, int) and side > 0 for side in made)
    if fits and max(made) <= FAR * max(frame.stored):
        if made in (frame.stored, frame.seen):
            return made, made == frame.stored
        for size in (frame.stored, frame.seen):
            if same_shape(made, size):
                return size, size == frame.stored
    said = "×".join(map(str, reversed(made)))
    height, width = frame.seen
    raise FlexEditError(
        f"{where} was made of a picture of {said or 'no'} pixels, but this one has {width}×{height}"
        "; use the annotated picture"
    )


def parts_of(shapes: Any, where: str) -> list[Any]:
    """The polygons of a segmentation, flat lists, or its run lengths, dicts."""
    if not shapes:
        raise FlexEditError(f"{where} has no segmentation; choose another object")
    parts = [shapes] if isinstance(shapes, dict) else shapes
    if isinstance(parts, list) and all(isinstance(part, dict) for part in parts):
        sizes = {str(part.get("size")) for part in parts}
        if len(sizes) > 1:
            raise FlexEditError(f"{where} has run lengths of several sizes: {', '.join(sizes)}")
        return parts
    try:
        if not isinstance(shapes, list):
            raise TypeError
        is_flat = all(isinstance(part, int | float) for part in shapes)
        if is_flat or (len(shapes) > 2 and all(len(part) == 2 for part in shapes)):  # pairs
            shapes = [shapes]  # one polygon
        return [np.array(part, float).reshape(-1).tolist() for part in shapes]
    except (TypeError, ValueError, OverflowError) as error:
        raise FlexEditError(
            f"{where} has a segmentation that is neither polygons nor run lengths: {shapes!r:.60}"
        ) from error


def polygons_mask(
    polygons: list[list[float]], scale: tuple[float, float], size: Size, where: str
) -> np.ndarray:
    """The union of polygons (x, y, x, y, …), once they are scaled, (H, W) bool; those of less than
    three points are nothing.
    """
    rle = run_length_tools()
    scaled = []
    for flat in polygons:
        points = np.array(flat[: len(flat) // 2 * 2]).reshape(-1, 2) * scale
        if not (np.abs(points) <= FAR * max(size)).all():
            raise FlexEditError(f"{where} has a polygon far from its picture, or without numbers")
        if len(points) > 2:
            scaled.append(points.reshape(-1).tolist())
    if not scaled:
        raise FlexEditError(f"{where} has only polygons of less than three points")
    return rle.decode(rle.merge(rle.frPyObjects(scaled, *size))).astype(bool)


def run_length_tools() -> Any:
    try:
        import pycocotools.mask
    except ImportError as error:
        raise FlexEditError(
            "reading COCO annotations needs pycocotools: pip install pycocotools"
        ) from error
    return pycocotools.mask


def runs_mask(counts: Any, size: Size, where: str) -> np.ndarray:
    """Run lengths, which go down the columns and begin with what is outside → (H, W) bool"""
    height, width = size
    try:
        is_packed = isinstance(counts, str | bytes)
        lengths = unpacked(counts) if is_packed else [int(count) for count in counts]
    except (TypeError, ValueError, OverflowError) as error:
        raise FlexEditError(f"{where} has run lengths that are no numbers") from error
    if min(lengths, default=0) < 0:
        raise FlexEditError(f"{where} has a run length below 0")
    if sum(lengths) != height * width:
        raise FlexEditError(
            f"{where} has run lengths that cover {sum(lengths)} pixels of a picture that has "
            f"{height * width}"
        )
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def unpacked(text: str | bytes) -> list[int]:
    """COCO's text of run lengths: each in 5 bits a character, least first, the last with its sign;
    from the fourth on, what is more than two before.
    """
    data = text.encode("ascii") if isinstance(text, str) else text
    bits = np.frombuffer(data, np.uint8).astype(np.int64) - ord("0")
    if (bits < 0).any() or (bits > 63).any():
        raise ValueError(f"{text!r:.60} has other characters")
    last = np.flatnonzero(bits & 32 == 0)  # of each number
    if not len(last):
        return []
    sizes = np.diff(last, prepend=-1)
    if sizes.max() > 10:
        raise ValueError(f"{text!r:.60} has a number of more than 50 bits")
    starts = last - sizes + 1
    shift = 5 * (np.arange(last[-1] + 1) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((bits[: last[-1] + 1] & 31) << shift, starts)
    numbers -= (bits[last] & 16) << (shift[last] + 1)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    found: list[int] = numbers.tolist()
    return found
