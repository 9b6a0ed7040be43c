"""What people say about a marked picture, and the right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from ...prompts import ASK_INSTRUCTION, BACKGROUND, naming_reply
from .assets import ASSETS, CLASSES

NAMING = 0.12  # how often people name the object they mean, though the mask says it

# by operation: instructions, those of people who name the object they mean, and captions
PHRASES: dict[str, Any] = yaml.safe_load((ASSETS / "words.yaml").read_text(encoding="utf-8"))
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
    named = rng.random() < NAMING and operation in PHRASES["named"]
    options = PHRASES["named" if named else "instructions"][operation]
    return pick(options, rng).format(**words), caption(operation, **words)


def caption(operation: str, **words: str) -> str:
    """An instruction that names everything."""
    return PHRASES["captions"][operation].format(**words)


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
