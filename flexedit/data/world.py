"""A small synthetic world in which every edit has an exact truth.

Two to four objects stand on a photograph or a texture; a person has scribbled over one of them, or
over an empty place, and says what to do. Because the scene is composited, what it looks like
without an object, with another one in its place, or repainted is known to the pixel.

A sample depends on (seed, split, index) alone. Pictures are uint8 (H, W, 3), masks bool (H, W).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .. import masks
from ..errors import FlexEditError
from ..prompts import BACKGROUND, naming_reply

ASSETS = Path(__file__).parent / "assets"
SPLITS = ("train", "heldout")

CLASSES = (
    "apple", "banana", "carrot", "strawberry", "mushroom", "pizza", "burger", "cake", "ice cream",
    "dog", "cat", "rabbit", "horse", "elephant", "bear", "turtle", "fish", "butterfly", "duck",
    "penguin", "car", "bus", "train", "bicycle", "airplane", "rocket", "sailboat", "guitar", "key",
    "light bulb", "umbrella", "chair", "clock", "balloon", "ball", "flower",
)  # fmt: skip

OPERATIONS = {
    "segment": 0.25,
    "remove": 0.20,
    "replace": 0.20,
    "add": 0.10,
    "insert": 0.08,
    "swap": 0.07,
    "recolor": 0.05,
    "ask": 0.05,
}
NEEDS_PLACE = ("add", "insert")  # the mask means an empty place
NEEDS_SUBJECT = ("insert", "swap")

MIN_SIZE, MAX_SIZE = 0.26, 0.5  # an object's longer side, as a fraction of the picture
MIN_VISIBLE = 0.7
MIP_SIZES = (96, 68, 48, 34, 24, 17)  # sprites are pre-shrunk so that bilinear sampling suffices
MIP_BORDER = 2
FAINT = 8  # alpha below this is cleared: an edge nobody sees is no part of a region


@dataclass(frozen=True)
class Sample:
    """One row: a scene, a scribble, what is said about it, and the exact result."""

    scene: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) bool, the free-shape mask
    kind: str  # one of masks.KINDS or "random walk"
    task: str  # edit, segment or ask
    operation: str  # a key of OPERATIONS
    instruction: str  # what a person types; rarely names the object meant
    caption: str  # the same, naming everything
    reply: str  # what the VLLM should say, without edit tokens
    label: str  # the object the mask means; "background" for an empty place
    subject: np.ndarray | None  # (H, W, 3) uint8
    target: np.ndarray | None  # (H, W, 3) uint8, the exact result; None for ask
    region: np.ndarray | None  # (H, W) bool: outside it target equals scene
    object_mask: np.ndarray  # (H, W) bool, the visible target object (add, insert: the added one)
    classes: np.ndarray  # (H, W) uint8: 0 background, 1 + index in CLASSES


@dataclass(frozen=True)
class Look:
    """How one object is drawn; `size` is the sprite's longer side as a fraction of the picture."""

    label: int
    style: str
    variant: int = 0
    size: float = 0.4
    angle: float = 0.0
    flip: bool = False
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Layer:
    """A drawn object, cut to the picture: premultiplied colour (h, w, 3) and alpha (h, w, 1)."""

    look: Look
    color: np.ndarray  # float32, 0..255
    alpha: np.ndarray  # float32, 0..1
    top: int
    left: int

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.alpha.shape[:2]
        return np.s_[self.top : self.top + height, self.left : self.left + width]

    @property
    def solid(self) -> np.ndarray:
        return self.alpha[:, :, 0] > 0.5


class World:
    """An endless sequence of samples: `world[index]`.

    size: pixels a side · split: "train" or "heldout" (other backgrounds, other compositions) ·
    styles: emoji styles of the objects, by default those meant for training ·
    operations: weights by name, by default OPERATIONS.
    """

    classes = CLASSES

    def __init__(
        self,
        size: int = 64,
        split: str = "train",
        seed: int = 0,
        styles: Sequence[str] | None = None,
        operations: Mapping[str, float] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise FlexEditError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
        if size < 32:
            raise FlexEditError(f"The size is {size}; objects need pictures of 32 pixels or more.")
        weights = dict(OPERATIONS if operations is None else operations)
        if unknown := set(weights) - set(OPERATIONS):
            raise FlexEditError(
                f"Unknown operations {', '.join(sorted(unknown))}; choose from {', '.join(OPERATIONS)}."
            )
        if not sum(weights.values()) > 0 or min(weights.values()) < 0:
            raise FlexEditError("The weights of the operations must not be negative, nor all 0.")
        self.size, self.split, self.seed = size, split, seed
        self.styles = tuple(all_styles("train") if styles is None else styles)
        if unknown := set(self.styles) - set(all_styles()):
            raise FlexEditError(
                f"Unknown styles {', '.join(sorted(unknown))}; choose from {', '.join(all_styles())}."
            )
        counts = [sum(sprite_count(style, i) for style in self.styles) for i in range(len(CLASSES))]
        self._labels = np.flatnonzero(counts)
        self._operations = tuple(weights)
        self._cumulative = np.cumsum(list(weights.values())) / sum(weights.values())

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        operation = self._operations[int(np.searchsorted(self._cumulative, rng.random(), "right"))]
        while True:
            sample = self._compose(operation, rng)
            if sample is not None:
                return sample

    def _compose(self, operation: str, rng: np.random.Generator) -> Sample | None:
        """One attempt; None when the dice leave no room."""
        backdrop = background(self.size, self.split, rng)
        count = int(rng.integers(1, 4) if operation in NEEDS_PLACE else rng.integers(2, 5))
        labels = rng.permutation(self._labels)
        layers, owner = self._place(labels[:count], rng)
        fresh = int(labels[count])  # a class the scene does not have
        if operation in NEEDS_PLACE or (operation == "ask" and rng.random() < 0.15):
            return self._at_place(operation, rng, backdrop, layers, owner, fresh)
        return self._on_object(operation, rng, backdrop, layers, owner, fresh)

    def _place(self, labels: Iterable[int], rng: np.random.Generator) -> tuple[list[Layer], np.ndarray]:
        """Objects with little overlap, and whose each pixel is: 0 or 1 + index of the layer (H, W)."""
        layers: list[Layer] = []
        owner = np.zeros((self.size, self.size), np.uint8)
        visible: list[int] = []
        whole: list[int] = []
        for label in labels:
            look = self._look(int(label), rng)
            picture = draw(look, self.size)
            for _ in range(8):
                margin = 0.42 * look.size
                center = rng.uniform(margin, 1 - margin, 2) * self.size
                layer = at(look, picture, center, self.size)
                below = owner[layer.window]
                hidden = np.bincount(below[layer.solid], minlength=len(layers) + 1)[1:]
                if all((v - h) >= MIN_VISIBLE * w for v, h, w in zip(visible, hidden, whole, strict=True)):
                    visible = [v - int(h) for v, h in zip(visible, hidden, strict=True)]
                    layers.append(layer)
                    below[layer.solid] = len(layers)
                    visible.append(int(np.count_nonzero(layer.solid)))
                    whole.append(visible[-1])
                    break
        return layers, owner

    def _look(self, label: int, rng: np.random.Generator) -> Look:
        styles = [style for style in self.styles if sprite_count(style, label)]
        style = styles[rng.integers(len(styles))]
        gain = rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 3)
        return Look(
            label,
            style,
            variant=int(rng.integers(sprite_count(style, label))),
            size=float(rng.uniform(MIN_SIZE, MAX_SIZE)),
            angle=float(rng.normal(0, 14)),
            flip=bool(rng.random() < 0.5),
            light=tuple(gain.tolist()),
        )

    def _on_object(self, operation, rng, backdrop, layers, owner, fresh) -> Sample | None:
        chosen = int(rng.integers(len(layers)))
        layer = layers[chosen]
        name = CLASSES[layer.look.label]
        object_mask = owner == chosen + 1
        others = [owner == i + 1 for i in range(len(layers)) if i != chosen]
        kind = choose_kind(rng)
        mask = masks.scribble(kind, object_mask, rng, others)
        words = {"old": name, "a_old": article(name)}
        subject, after, paint = None, list(layers), None

        if operation == "remove":
            del after[chosen]
        elif operation in ("replace", "swap"):
            center, extent = box_of(object_mask)
            size = float(np.clip(extent / self.size, MIN_SIZE, MAX_SIZE))
            look = canonical(fresh, size)
            if operation == "swap":
                look = upright(self._look(fresh, rng), size)
                subject = self._portrait(look, rng)
            after[chosen] = at(look, draw(look, self.size), center, self.size)
            words |= {"new": CLASSES[fresh], "a_new": article(CLASSES[fresh])}
        elif operation == "recolor":
            words["color"], after[chosen] = self._recolored(layer, rng)
        elif operation == "segment":
            words["color"] = paint = pick_color(rng)

        scene = compose(backdrop, layers)
        if paint is not None:
            target = scene.copy()
            target[object_mask] = paint_color(paint)
            region = object_mask
        elif operation == "ask":
            target = region = None
        else:
            target = compose(backdrop, after)
            region = footprint(layers, chosen, self.size)
            if operation != "remove":
                region |= footprint(after, chosen, self.size)
        present = [CLASSES[one.look.label] for one in layers]
        return self._sample(
            operation, rng, words, name, present, scene=scene, mask=mask, kind=kind,
            subject=subject, target=target, region=region, object_mask=object_mask,
            classes=class_map(owner, layers),
        )  # fmt: skip

    def _at_place(self, operation, rng, backdrop, layers, owner, fresh) -> Sample | None:
        kind = choose_kind(rng)
        mask = self._scribble_place(kind, owner > 0, rng)
        if mask is None:
            return None
        scene, subject, target, region = compose(backdrop, layers), None, None, None
        object_mask = np.zeros_like(mask)
        words = {"old": BACKGROUND}
        if operation != "ask":
            center, extent = box_of(mask)
            size = float(np.clip(extent / self.size, MIN_SIZE, MAX_SIZE))
            look = canonical(fresh, size)
            if operation == "insert":
                look = upright(self._look(fresh, rng), size)
                subject = self._portrait(look, rng)
            added = at(look, draw(look, self.size), center, self.size)
            target = compose(backdrop, [*layers, added])
            region = footprint([added], 0, self.size)
            object_mask[added.window] = added.solid
            words |= {"new": CLASSES[fresh], "a_new": article(CLASSES[fresh])}
        present = [CLASSES[one.look.label] for one in layers]
        return self._sample(
            operation, rng, words, BACKGROUND, present, scene=scene, mask=mask, kind=kind,
            subject=subject, target=target, region=region, object_mask=object_mask,
            classes=class_map(owner, layers),
        )  # fmt: skip

    def _scribble_place(self, kind, occupied, rng) -> np.ndarray | None:
        """A scribble over an empty place with room for an object, or None."""
        form = "circle" if kind == masks.RANDOM_WALK else kind
        for _ in range(12):
            size = rng.uniform(MIN_SIZE, MAX_SIZE) * self.size
            center = rng.uniform(size / 2, self.size - size / 2, 2)
            top, left = (center - size / 2).astype(int)
            room = occupied[top : top + int(size), left : left + int(size)]
            if np.count_nonzero(room) > 0.08 * room.size:
                continue
            stretch = rng.uniform(0.85, 1.18)
            mask = masks.rasterise(
                form,
                occupied.shape,
                center=center,
                size=(0.9 * size * stretch, 0.9 * size / stretch),
                rotation=rng.uniform(-30, 30),
                stroke=rng.uniform(0.12, 0.22) * size,
                wobble=rng.normal(size=(2, 5)),
            )
            if kind == masks.RANDOM_WALK:
                mask = masks.random_walk(mask, rng, coverage=rng.uniform(0.4, 0.8))
            if mask.any():
                return mask
        return None

    def _portrait(self, look: Look, rng: np.random.Generator) -> np.ndarray:
        """A picture of the subject by itself: the same sprite, in another size and place."""
        plain = rng.random() < 0.5
        backdrop = plain_backdrop(self.size, rng) if plain else background(self.size, self.split, rng)
        size = float(rng.uniform(0.5, 0.85))
        look = replace(look, size=size, angle=float(rng.normal(0, 8)))
        center = (0.5 + rng.uniform(-0.5, 0.5, 2) * (1 - size)) * self.size
        return compose(backdrop, [at(look, draw(look, self.size), center, self.size)])

    def _recolored(self, layer: Layer, rng: np.random.Generator) -> tuple[str, Layer]:
        """The layer in a colour it does not have yet, with its shading kept."""
        alpha = layer.alpha
        mean = layer.color.sum((0, 1)) / max(float(alpha.sum()), 1.0)
        far = [
            name for name in masks.COLORS
            if np.abs(paint_color(name) - tint(mean, name)).max() > 40
            and np.abs(tint(mean, name) - mean).max() > 50
        ]  # fmt: skip
        name = (far or list(masks.COLORS))[rng.integers(len(far or masks.COLORS))]
        light = layer.color @ LUMINANCE
        solid = light[layer.solid]
        full = float(np.percentile(solid, 90)) if solid.size else 255.0
        shade = np.minimum(0.25 * alpha[:, :, 0] + 0.75 * light / max(full, 30.0), alpha[:, :, 0])
        return name, replace(layer, color=shade[:, :, None] * paint_color(name))

    def _sample(self, operation, rng, words, label, present, **pictures) -> Sample:
        reply = naming_reply(label)
        if operation == "ask":
            instruction, caption, reply = question(label, present, rng)
        else:
            named = rng.random() < 0.12 and operation in NAMED
            instruction = pick(NAMED[operation] if named else INSTRUCTIONS[operation], rng).format(**words)
            caption = CAPTIONS[operation].format(**words)
        task = operation if operation in ("segment", "ask") else "edit"
        return Sample(
            task=task, operation=operation, instruction=instruction, caption=caption,
            reply=reply, label=label, **pictures,
        )  # fmt: skip


# Words

INSTRUCTIONS = {
    "segment": (
        "mark the object under the mask in {color}",
        "paint the whole object in {color}",
        "mark all pixels of the masked object in {color} and leave the rest unchanged",
        "color the marked object {color} completely",
        "segment this in {color}",
    ),
    "remove": (
        "remove this", "remove it", "delete this object", "erase it", "take this away",
        "get rid of it", "remove the marked object", "make this disappear",
    ),
    "replace": (
        "replace it with {a_new}", "turn it into {a_new}", "replace this with {a_new}",
        "change this into {a_new}", "make it {a_new}", "swap this for {a_new}",
        "there should be {a_new} instead",
    ),
    "add": (
        "add {a_new}", "add {a_new} here", "put {a_new} here", "place {a_new} in this place",
        "draw {a_new} here", "I want {a_new} here",
    ),
    "insert": (
        "add the {new} in [pic2] to [pic1]", "add the object in [pic2] to [pic1]",
        "put the object of the second picture here", "insert the subject of [pic2] here",
        "place the {new} from the second picture here", "add what is in [pic2]",
    ),
    "swap": (
        "replace it with the object in the second picture", "replace this with the {new} in [pic2]",
        "replace it with the object in [pic2]", "swap this for what is in [pic2]",
        "turn it into the {new} of the second picture",
    ),
    "recolor": (
        "paint it {color}", "make it {color}", "change its color to {color}", "turn this {color}",
        "recolor it in {color}",
    ),
}  # fmt: skip
NAMED = {
    "segment": ("mark the {old} in {color}", "paint the whole {old} in {color}"),
    "remove": ("remove the {old}", "erase the {old}"),
    "replace": ("replace the {old} with {a_new}", "turn the {old} into {a_new}"),
    "swap": ("replace the {old} with the {new} in [pic2]",),
    "recolor": ("paint the {old} {color}", "make the {old} {color}"),
}
CAPTIONS = {
    "segment": "mark the {old} in {color}",
    "remove": "remove the {old}",
    "replace": "replace the {old} with {a_new}",
    "add": "add {a_new}",
    "insert": "add the {new} in the second picture",
    "swap": "replace the {old} with the {new} in the second picture",
    "recolor": "paint the {old} {color}",
}
MEANING = ("what does the mask mean?", "what is under the white mark?", "what is this?", "name this object")
NUMBERS = ("no objects", "one object", "two objects", "three objects", "four objects")


def question(label: str, present: Sequence[str], rng: np.random.Generator) -> tuple[str, str, str]:
    """(instruction, caption, answer) about the marked place or the scene."""
    form = rng.random()
    absent = pick([name for name in CLASSES if name not in present], rng)
    if form < 0.55 or label == BACKGROUND and form < 0.85:
        return pick(MEANING, rng), "what does the mask mean?", naming_reply(label)
    if form < 0.7:
        right = rng.random() < 0.5
        name = article(label if right else pick([*present, absent], rng))
        right = name == article(label)
        answer = f"Yes, it is {name}" if right else f"No, it is {article(label)}"
        return f"is this {name}?", f"is the marked object {name}?", answer
    if form < 0.85:
        right = rng.random() < 0.5
        name = article(pick(present, rng) if right else absent)
        answer = f"Yes, there is {name}" if right else f"No, there is not {name}"
        return f"is there {name}?", f"is there {name} in the picture?", answer
    text = "how many objects are there?"
    count = NUMBERS[len(present)]
    return text, text, f"There {'is' if len(present) == 1 else 'are'} {count}"


def article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def pick_color(rng: np.random.Generator) -> str:
    return "red" if rng.random() < 0.5 else pick(tuple(masks.COLORS), rng)


def choose_kind(rng: np.random.Generator) -> str:
    return masks.RANDOM_WALK if rng.random() < 0.2 else pick(masks.KINDS, rng)


# Drawing objects

LUMINANCE = np.array([0.3, 0.59, 0.11], np.float32)


def canonical(label: int, size: float) -> Look:
    """The one pose in which an object is drawn that was only named."""
    return Look(label, "fluent", size=size)


def upright(look: Look, size: float) -> Look:
    return replace(look, size=size, angle=0.0)


def draw(look: Look, size: int) -> np.ndarray:
    """A sprite in its look, premultiplied RGBA uint8 (h, w, 4) cut to what is visible."""
    length = max(2.0, look.size * size)
    mip = min((m for m in MIP_SIZES if m >= length), default=MIP_SIZES[0])
    sprite = mipmap(look.style, look.label, look.variant, mip)
    theta = np.deg2rad(look.angle)
    cos, sin = float(np.cos(theta)) * mip / length, float(np.sin(theta)) * mip / length
    side = int(np.ceil(length * (abs(np.cos(theta)) + abs(np.sin(theta))))) + 2
    middle, half = mip / 2 + MIP_BORDER, side / 2
    if look.flip:
        across = (-cos, -sin, middle + (cos + sin) * half)
    else:
        across = (cos, sin, middle - (cos + sin) * half)
    down = (-sin, cos, middle + (sin - cos) * half)
    drawn = sprite.transform((side, side), Image.Transform.AFFINE, across + down, Image.Resampling.BILINEAR)
    picture = np.frombuffer(drawn.tobytes("raw", "RGBa"), np.uint8).reshape(side, side, 4)
    visible = picture[:, :, 3] >= FAINT
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return picture[window] * visible[window][:, :, None]


def at(look: Look, picture: np.ndarray, center: Sequence[float], size: int) -> Layer:
    """A drawn object with the centre of its box at `center` (y, x), in pixels."""
    height, width = picture.shape[:2]
    top, left = round(center[0] - height / 2), round(center[1] - width / 2)
    picture = picture[max(-top, 0) : size - top, max(-left, 0) : size - left].astype(np.float32)
    alpha = picture[:, :, 3:] * np.float32(1 / 255)
    color = np.minimum(picture[:, :, :3] * np.array(look.light, np.float32), picture[:, :, 3:])
    return Layer(look, color, alpha, max(top, 0), max(left, 0))


def compose(backdrop: np.ndarray, layers: Iterable[Layer]) -> np.ndarray:
    """backdrop float32 (H, W, 3) with the layers over it, uint8"""
    canvas = backdrop.copy()
    for layer in layers:
        window = canvas[layer.window]
        window *= 1 - layer.alpha
        window += layer.color
    return (canvas + 0.5).astype(np.uint8)


def footprint(layers: Sequence[Layer], index: int, size: int) -> np.ndarray:
    """Where layer `index` can be seen at all, (H, W) bool."""
    seen = np.zeros((size, size), bool)
    seen[layers[index].window] = layers[index].alpha[:, :, 0] > 0
    for above in layers[index + 1 :]:
        seen[above.window] &= above.alpha[:, :, 0] < 1
    return seen


def class_map(owner: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    return np.array([0] + [1 + layer.look.label for layer in layers], np.uint8)[owner]


def box_of(mask: np.ndarray) -> tuple[tuple[float, float], int]:
    """Centre (y, x) and longer side of the box around a mask, in pixels."""
    (top, bottom), (left, right) = masks.extent(mask, 1), masks.extent(mask, 0)
    return ((top + bottom) / 2, (left + right) / 2), max(bottom - top, right - left)


def paint_color(name: str) -> np.ndarray:
    return np.array(masks.COLORS[name], np.float32) * 255


def tint(mean: np.ndarray, name: str) -> np.ndarray:
    return paint_color(name) * min(1.0, float(mean @ LUMINANCE) / 180)


# Backgrounds


def background(size: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """A photograph or a texture, float32 (size, size, 3) in 0..255."""
    picture = photograph(size, split, rng) if rng.random() < 0.55 else texture(size, split, rng)
    gain = rng.uniform(0.7, 1.2) * rng.uniform(0.92, 1.08, 3)
    return np.minimum(picture * gain.astype(np.float32), 255)


def photograph(size: int, split: str, rng: np.random.Generator) -> np.ndarray:
    names = photo_names(split)
    scales = photo_scales(names[rng.integers(len(names))], size)
    photo = scales[rng.integers(len(scales))]
    top = int(rng.integers(photo.shape[0] - size + 1))
    left = int(rng.integers(photo.shape[1] - size + 1))
    crop = photo[top : top + size, left : left + size]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if crop.shape[2] == 1:
        crop = crop * (rng.uniform(0.5, 1.3, 3)).astype(np.float32)
    return np.minimum(crop, 255, dtype=np.float32)


def texture(size: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """Two or three colours mixed by a gradient, noise, stripes, checks or dots."""
    low, high = rng.uniform(20, 250, (2, 3)).astype(np.float32)
    form = rng.integers(6)
    if form == 0:
        return plain_backdrop(size, rng)
    if form <= 2:
        fields = noise_fields(size, split)
        field = fields[rng.integers(len(fields))]
        top, left = rng.integers(size, size=2)
        amount = field[top : top + size, left : left + size]
        if rng.random() < 0.4:  # grain on a plain colour
            high = low + rng.uniform(-45, 45)
    else:
        grid = np.arange(size, dtype=np.float32) / size
        theta, count = rng.uniform(0, np.pi), rng.uniform(2, 7) * 2 * np.pi
        y, x = grid[:, None], grid[None]
        u, v = np.cos(theta) * x + np.sin(theta) * y, np.cos(theta) * y - np.sin(theta) * x
        shift = rng.uniform(0, 6, 2)
        amount = np.sin(count * u + shift[0])
        if form == 4:
            amount = amount * np.sin(count * v + shift[1])
        elif form == 5:
            amount = amount + np.sin(count * v + shift[1]) - 0.7
        amount = np.clip(amount * rng.uniform(1, 6) + 0.5, 0, 1)
        if rng.random() < 0.5:
            high = low + rng.uniform(-70, 70)
    amount = amount[:, :, None].astype(np.float32)
    return np.clip(low + (high - low) * amount, 0, 255).astype(np.float32)


def plain_backdrop(size: int, rng: np.random.Generator) -> np.ndarray:
    """One colour, or a gradient between two."""
    low, high = rng.uniform(20, 255, (2, 3)).astype(np.float32)
    if rng.random() < 0.4:
        return np.broadcast_to(low, (size, size, 3))
    theta = rng.uniform(0, 2 * np.pi)
    grid = np.arange(size, dtype=np.float32) / size - np.float32(0.5)
    amount = 0.5 + 0.7 * (np.cos(theta) * grid[None] + np.sin(theta) * grid[:, None])
    return low + (high - low) * np.clip(amount, 0, 1)[:, :, None].astype(np.float32)


# Assets, loaded on first use


@cache
def sources() -> dict:
    return json.loads((ASSETS / "sources.json").read_text())


@cache
def all_styles(split: str | None = None) -> tuple[str, ...]:
    return tuple(s["name"] for s in sources()["styles"] if split in (None, s["split"]))


@cache
def sprite_count(style: str, label: int) -> int:
    return len(sources()["sprites"][style].get(CLASSES[label], ()))


@cache
def mipmap(style: str, label: int, variant: int, size: int) -> Image.Image:
    """A sprite `size` pixels wide inside a transparent border, premultiplied RGBa."""
    name = sources()["sprites"][style][CLASSES[label]][variant]
    sprite = Image.open(ASSETS / "sprites" / style / name).convert("RGBA").convert("RGBa")
    bordered = Image.new("RGBa", (size + 2 * MIP_BORDER,) * 2)
    bordered.paste(sprite.resize((size, size), Image.Resampling.BOX if size > 90 else Image.Resampling.LANCZOS),
                   (MIP_BORDER, MIP_BORDER))
    return bordered


@cache
def photo_names(split: str) -> tuple[str, ...]:
    return tuple(n for n, source in sources()["backgrounds"].items() if source["split"] == split)


@lru_cache(maxsize=256)
def photo_scales(name: str, size: int) -> tuple[np.ndarray, ...]:
    """A photograph whose shorter side is 1 to 3 times `size`; grey ones have one channel."""
    photo = Image.open(ASSETS / "backgrounds" / name)
    scales = []
    for zoom in (1.0, 1.4, 2.0, 2.8):
        shorter = max(size, round(zoom * size))
        width, height = (max(shorter, round(side * shorter / min(photo.size))) for side in photo.size)
        array = np.asarray(photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
        grey = np.ptp(array.reshape(-1, 3)[::97], axis=1).max() < 8
        scales.append(array[:, :, :1] if grey else array)
    return tuple(scales)


@lru_cache(maxsize=8)
def noise_fields(size: int, split: str) -> tuple[np.ndarray, ...]:
    """Smooth noise (2 size, 2 size) in 0..1, from cloudy to grainy."""
    rng = np.random.default_rng([SPLITS.index(split), 7])
    fields = []
    for index in range(24):
        field = np.zeros((2 * size, 2 * size), np.float32)
        for octave in range(5):
            cells = Image.fromarray(rng.random((4 << octave, 4 << octave), np.float32))
            layer = np.asarray(cells.resize((2 * size, 2 * size), Image.Resampling.BICUBIC))
            field += layer * (0.45 + 0.025 * index) ** octave
        low, high = np.percentile(field, (2, 98))
        fields.append(np.clip((field - low) / (high - low), 0, 1))
    return tuple(fields)


# Looking at samples and writing them down


def contact_sheet(samples: Sequence[Sample], columns: int = 8, scale: int = 2) -> Image.Image:
    """Marked scene, target and subject of every sample above its words."""
    cell = samples[0].scene.shape[0] * scale
    width, height = cell + 8, 3 * cell + 76
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "black")
    pen = ImageDraw.Draw(sheet)
    for index, sample in enumerate(samples):
        x, y = index % columns * width, index // columns * height
        marked = np.where(sample.mask[:, :, None], sample.scene // 2 + 128, sample.scene)
        for row, picture in enumerate((marked, sample.target, sample.subject)):
            if picture is not None:
                picture = Image.fromarray(picture.astype(np.uint8)).resize((cell, cell), Image.Resampling.NEAREST)
                sheet.paste(picture, (x, y + row * cell))
        limit = max(10, width // 6)
        text = [sample.instruction, sample.caption, sample.reply, f"{sample.operation}, {sample.kind}"]
        lines = [line[i : i + limit] for line in text for i in range(0, min(len(line), 2 * limit), limit)]
        for row, line in enumerate(lines[:6]):
            pen.text((x, y + 3 * cell + 2 + 12 * row), line, fill="white")
    return sheet


def write(world: World, indices: Iterable[int], out_dir: str | Path) -> Path:
    """Writes scenes, masks, targets, regions and subjects as PNG, and the rest into index.jsonl."""
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    index_file = folder / "index.jsonl"
    with index_file.open("w", encoding="utf-8") as lines:
        for index in indices:
            sample = world[index]
            row: dict = {"index": int(index)}
            for part in ("scene", "mask", "subject", "target", "region", "object_mask"):
                array = getattr(sample, part)
                if array is None:
                    continue
                row[part] = f"{index:07d}_{part}.png"
                if array.dtype == bool:
                    array = array.astype(np.uint8) * 255
                Image.fromarray(array).save(folder / row[part])
            for part in ("kind", "task", "operation", "instruction", "caption", "reply", "label"):
                row[part] = getattr(sample, part)
            lines.write(json.dumps(row) + "\n")
    return index_file
