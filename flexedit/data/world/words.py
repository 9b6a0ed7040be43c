"""What people say about a marked picture, and the right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...prompts import ASK_INSTRUCTION, BACKGROUND, naming_reply
from .assets import CLASSES

NAMING = 0.12  # how often people name the object they mean, though the mask says it

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
MEANING = (
    ASK_INSTRUCTION,
    "what is under the white mark?",
    "what is this?",
    "name this object",
)
NUMBERS = ("no objects", "one object", "two objects", "three objects", "four objects")


def instruct(operation: str, words: Mapping[str, str], rng: np.random.Generator) -> tuple[str, str]:
    """(instruction, caption): what a person types, and the same naming everything.

    words: old, the object meant · new, a_new · color
    """
    named = rng.random() < NAMING and operation in NAMED
    options = NAMED[operation] if named else INSTRUCTIONS[operation]
    return pick(options, rng).format(**words), CAPTIONS[operation].format(**words)


def question(label: str, present: Sequence[str], rng: np.random.Generator) -> tuple[str, str, str]:
    """(instruction, caption, answer) about the marked place or the scene."""
    form = rng.random()  # what is it, is it a …, is there a …, how many
    absent = pick([name for name in CLASSES if name not in present], rng)
    if form < 0.55 or (label == BACKGROUND and form < 0.85):
        return pick(MEANING, rng), ASK_INSTRUCTION, naming_reply(label)
    if form < 0.7:
        right = rng.random() < 0.5
        guess = label if right else pick([*present, absent], rng)
        answer = f"{'Yes' if guess == label else 'No'}, it is {article(label)}"
        return f"is this {article(guess)}?", f"is the marked object {article(guess)}?", answer
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
