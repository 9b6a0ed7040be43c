"""How people ask for a segmentation, in several languages; sayings.yaml has the words."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .world.words import pick

FOREIGN = 0.3  # how often the language is not English


@cache
def sayings() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(
        Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    )
    return found


def segment_instruction(expression: str, color: str, rng: np.random.Generator) -> str:
    """expression: what names the object; "" if the mask does · color: one of masks.COLORS"""
    if expression:
        return pick(sayings()["named"], rng).format(object=expression, color=color)
    english, *others = sayings()["marked"]
    foreign: Any = others[int(rng.integers(len(others)))]
    language = foreign if rng.random() < FOREIGN else english
    local = language["colors"][sayings()["colors"].index(color)]
    return pick(language["say"], rng).format(color=local)
