"""A small synthetic world in which every edit has an exact truth.

Two to four objects stand on a photograph or a texture; a person has scribbled over one of them, or
over an empty place, and says what to do. Because the scene is composited, what it looks like
without an object, with another one in its place, or repainted is known to the pixel.

A sample depends on (seed, split, index) alone. Pictures are uint8 (H, W, 3), masks bool (H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ... import masks
from ...errors import FlexEditError
from ...prompts import BACKGROUND, naming_reply
from ..sample import Sample
from .assets import CLASSES, all_styles, sprite_count
from .backgrounds import SPLITS, Backdrop, background, plain_backdrop
from .objects import (
    Layer,
    Look,
    at,
    box_of,
    canonical,
    class_map,
    compose,
    draw,
    footprint,
    owner_map,
    paint_color,
    recolored,
    upright,
)
from .words import article, instruct, pick, question

OPERATIONS = {
    "segment": 0.22,
    "remove": 0.14,
    "replace": 0.22,
    "add": 0.13,
    "insert": 0.11,
    "swap": 0.10,
    "recolor": 0.03,
    "ask": 0.05,
}
NEEDS_PLACE = ("add", "insert")  # the mask means an empty place
FULL_MASK = "full mask"  # a kind: not a scribble but the very pixels meant

MIN_VISIBLE = 0.7


@dataclass(frozen=True)
class Framing:
    """How much of a picture its objects fill.

    min_size, max_size: of an object's longer side, as a fraction of the picture · margin: how far
    an object's middle keeps from the picture's edge, in its longer sides · max_objects: of a scene
    """

    min_size: float
    max_size: float
    margin: float
    max_objects: int


FRAMINGS = {
    "whole": Framing(0.26, 0.5, margin=0.42, max_objects=4),
    "crop": Framing(0.31, 0.69, margin=0.3, max_objects=3),  # as pictures are cut around a mask
}


class World:
    """An endless sequence of samples: `world[index]`.

    size: pixels a side · split: "train" or "heldout" (other backgrounds, other compositions) ·
    styles: emoji styles of the objects, by default those meant for training ·
    operations: weights by name, by default OPERATIONS ·
    kinds: of masks, each as often, by default all of them, random walks and full masks ·
    framing: one of FRAMINGS.
    """

    classes = CLASSES

    def __init__(
        self,
        size: int = 64,
        split: str = "train",
        seed: int = 0,
        styles: Sequence[str] | None = None,
        operations: Mapping[str, float] | None = None,
        kinds: Sequence[str] | None = None,
        framing: str = "whole",
    ) -> None:
        if split not in SPLITS:
            raise FlexEditError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
        if size < 32:
            raise FlexEditError(f"The size is {size}; objects need pictures of 32 pixels or more.")
        weights = dict(OPERATIONS if operations is None else operations)
        if unknown := set(weights) - set(OPERATIONS):
            raise FlexEditError(
                f"Unknown operations {', '.join(sorted(unknown))}; "
                f"choose from {', '.join(OPERATIONS)}."
            )
        if not sum(weights.values()) > 0 or min(weights.values()) < 0:
            raise FlexEditError("The weights of the operations must not be negative, nor all 0.")
        known = (*masks.KINDS, masks.RANDOM_WALK, FULL_MASK)
        if kinds is not None and (not kinds or set(kinds) - set(known)):
            raise FlexEditError(
                f"The mask kinds are {', '.join(kinds) or 'none'}; choose from {', '.join(known)}."
            )
        if framing not in FRAMINGS:
            raise FlexEditError(f"Unknown framing {framing!r}; choose {' or '.join(FRAMINGS)}.")
        self.size, self.split, self.seed, self.kinds = size, split, seed, kinds
        self.framing = FRAMINGS[framing]
        self.styles = tuple(all_styles("train") if styles is None else styles)
        if unknown := set(self.styles) - set(all_styles()):
            raise FlexEditError(
                f"Unknown styles {', '.join(sorted(unknown))}; "
                f"choose from {', '.join(all_styles())}."
            )
        self._styles = [
            [style for style in self.styles if sprite_count(style, label)]
            for label in range(len(CLASSES))
        ]
        self._labels = np.array([i for i, styles in enumerate(self._styles) if styles])
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
        least, most = 2, self.framing.max_objects
        if operation in NEEDS_PLACE:
            least, most = least - 1, most - 1
        count = int(rng.integers(least, most + 1))
        labels = rng.permutation(self._labels)
        layers, owner = self._place(labels[:count], rng)
        fresh = int(labels[count])  # a class the scene does not have
        at_place = operation in NEEDS_PLACE or (operation == "ask" and rng.random() < 0.15)
        edit = self._at_place if at_place else self._on_object
        return edit(operation, rng, backdrop, layers, owner, fresh)

    def _place(
        self, labels: Iterable[int], rng: np.random.Generator
    ) -> tuple[list[Layer], np.ndarray]:
        """Objects with little overlap, and their owner map (H, W): 0 or 1 + index of the layer."""
        layers: list[Layer] = []
        owner = np.zeros((self.size, self.size), np.uint8)
        spare = np.zeros(len(CLASSES) + 1)  # pixels of each layer that may still be hidden
        spare[0] = np.inf
        for label in labels:
            look = self._look(int(label), rng)
            picture = draw(look, self.size)
            margin = self.framing.margin * look.size
            for _ in range(8):
                center = rng.uniform(margin, 1 - margin, 2) * self.size
                layer = at(look, picture, center, self.size)
                solid = layer.solid
                below = owner[layer.window]
                hidden = np.bincount(below[solid], minlength=len(spare))
                if (hidden <= spare).all():
                    layers.append(layer)
                    below[solid] = len(layers)
                    spare -= hidden
                    spare[len(layers)] = (1 - MIN_VISIBLE) * np.count_nonzero(solid)
                    break
        return layers, owner

    def _look(self, label: int, rng: np.random.Generator) -> Look:
        style = pick(self._styles[label], rng)
        gain = rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 3)
        return Look(
            label,
            style,
            variant=int(rng.integers(sprite_count(style, label))),
            size=float(rng.uniform(self.framing.min_size, self.framing.max_size)),
            angle=float(rng.normal(0, 14)),
            flip=bool(rng.random() < 0.5),
            light=tuple(gain.tolist()),
        )

    def _on_object(
        self,
        operation: str,
        rng: np.random.Generator,
        backdrop: Backdrop,
        layers: list[Layer],
        owner: np.ndarray,
        fresh: int,
    ) -> Sample:
        """The mask means an object of the scene."""
        chosen = int(rng.integers(len(layers)))
        layer = layers[chosen]
        object_mask = owner == chosen + 1
        others = [owner == i + 1 for i in range(len(layers)) if i != chosen]
        kind = choose_kind(rng, self.kinds)
        mask, rotation = object_mask, None
        if kind != FULL_MASK:
            mask, rotation = masks.turned_scribble(kind, object_mask, rng, others)
        words = {"old": CLASSES[layer.look.label]}
        scene = compose(backdrop.picture, layers)
        target, region, after = None, None, list(layers)
        portrait: dict[str, Any] = {}
        if operation == "remove":
            del after[chosen]
            words["new"] = BACKGROUND
        elif operation in ("replace", "swap"):
            after[chosen], portrait = self._newcomer(fresh, object_mask, operation == "swap", rng)
            words |= {"new": CLASSES[fresh], "a_new": article(CLASSES[fresh])}
        elif operation == "recolor":
            words["color"], after[chosen] = recolored(layer, rng)

        if operation == "segment":
            words["color"] = "red" if rng.random() < 0.5 else pick(tuple(masks.COLORS), rng)
            target, region = scene.copy(), object_mask
            target[object_mask] = paint_color(words["color"])
        elif operation != "ask":
            target = compose(backdrop.picture, after)
            region = footprint(layers, chosen, self.size)
            if operation != "remove":
                region |= footprint(after, chosen, self.size)
        return self._sample(
            operation, rng, words, layers, after, mask=mask, kind=kind, rotation=rotation,
            scene=scene, setting=backdrop.setting, object_mask=object_mask,
            classes=class_map(owner, layers), target=target, region=region, **portrait,
        )  # fmt: skip

    def _at_place(
        self,
        operation: str,
        rng: np.random.Generator,
        backdrop: Backdrop,
        layers: list[Layer],
        owner: np.ndarray,
        fresh: int,
    ) -> Sample | None:
        """The mask means an empty place; None when there is none."""
        kind = choose_kind(rng, self.kinds)
        place = self._scribble_place(kind, owner > 0, rng)
        if place is None:
            return None
        mask, rotation = place
        scene = compose(backdrop.picture, layers)
        target, region = None, None
        portrait: dict[str, Any] = {}
        object_mask, after = np.zeros_like(mask), list(layers)
        words = {"old": BACKGROUND}
        if operation != "ask":
            added, portrait = self._newcomer(fresh, mask, operation == "insert", rng)
            after.append(added)
            target = compose(backdrop.picture, after)
            region = footprint([added], 0, self.size)
            object_mask[added.window] = added.solid
            mask = object_mask if kind == FULL_MASK else mask
            words |= {"new": CLASSES[fresh], "a_new": article(CLASSES[fresh])}
        return self._sample(
            operation, rng, words, layers, after, mask=mask, kind=kind, rotation=rotation,
            scene=scene, setting=backdrop.setting, object_mask=object_mask,
            classes=class_map(owner, layers), target=target, region=region, **portrait,
        )  # fmt: skip

    def _scribble_place(
        self, kind: str, occupied: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, float | None] | None:
        """A scribble over an empty place with room for an object and how it is turned, or None."""
        form = kind if kind in masks.KINDS else "circle"
        for _ in range(12):
            size = rng.uniform(self.framing.min_size, self.framing.max_size) * self.size
            y, x = rng.uniform(size / 2, self.size - size / 2, 2)
            top, left = int(y - size / 2), int(x - size / 2)
            room = occupied[top : top + int(size), left : left + int(size)]
            if np.count_nonzero(room) > 0.08 * room.size:
                continue
            stretch = rng.uniform(0.85, 1.18)
            rotation = rng.uniform(-30, 30)
            mask = masks.rasterise(
                form,
                occupied.shape,
                center=(y, x),
                size=(0.9 * size * stretch, 0.9 * size / stretch),
                rotation=rotation,
                stroke=rng.uniform(0.12, 0.22) * size,
                wobble=rng.normal(size=(2, 5)),
            )
            if kind == masks.RANDOM_WALK:
                mask = masks.random_walk(mask, rng, coverage=rng.uniform(0.4, 0.8))
            if mask.any():
                return mask, rotation if kind in masks.KINDS else None
        return None

    def _newcomer(
        self, label: int, place: np.ndarray, has_portrait: bool, rng: np.random.Generator
    ) -> tuple[Layer, dict[str, Any]]:
        """An object at a place (H, W) and its portrait, or {}: then it is as it always is."""
        center, extent = box_of(place)
        size = float(np.clip(extent / self.size, self.framing.min_size, self.framing.max_size))
        look, portrait = canonical(label, size), {}
        if has_portrait:
            look = upright(self._look(label, rng), size)
            portrait = self._portrait(look, rng)
        return at(look, draw(look, self.size), center, self.size), portrait

    def _portrait(self, look: Look, rng: np.random.Generator) -> dict[str, Any]:
        """The subject by itself, the same sprite in another size and place, as a sample has it."""
        if rng.random() < 0.5:
            backdrop = Backdrop(plain_backdrop(self.size, rng), "none", plain=True)
        else:
            backdrop = background(self.size, self.split, rng)
        size = float(rng.uniform(0.5, 0.85))
        look = replace(look, size=size, angle=float(rng.normal(0, 8)))
        center = (0.5 + rng.uniform(-0.5, 0.5, 2) * (1 - size)) * self.size
        layers = [at(look, draw(look, self.size), center, self.size)]
        return {
            "subject": compose(backdrop.picture, layers),
            "subject_classes": class_map(owner_map(layers, self.size), layers),
            "subject_setting": "simple" if backdrop.plain else "complex",
        }

    def _sample(
        self,
        operation: str,
        rng: np.random.Generator,
        words: dict[str, str],
        layers: list[Layer],
        after: list[Layer],
        **known: Any,
    ) -> Sample:
        """A sample that says by ``words`` how the layers become those after."""
        label, reply = words["old"], naming_reply(words["old"])
        if operation == "ask":
            present = [CLASSES[layer.look.label] for layer in layers]
            instruction, caption, reply = question(label, present, rng)
        else:
            instruction, caption = instruct(operation, words, rng)
        return Sample(
            instruction=instruction,
            task=operation if operation in ("segment", "ask") else "edit",
            operation=operation,
            caption=caption,
            reply=reply,
            label=label,
            result_label=words.get("new", label),
            result_classes=class_map(owner_map(after, self.size), after),
            **known,
        )


def choose_kind(rng: np.random.Generator, kinds: Sequence[str] | None = None) -> str:
    if kinds is not None:
        return pick(kinds, rng)
    dice = rng.random()
    if dice < 0.1:
        return FULL_MASK
    return masks.RANDOM_WALK if dice < 0.3 else pick(masks.KINDS, rng)
