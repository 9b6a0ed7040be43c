"""What the ablation trains and runs: ``recipe.yaml``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from flexedit.data.world import OPERATIONS, World
from flexedit.models.config import merged
from flexedit.training.recipe import StageRecipe, read_recipe
from flexedit.validation import STRICT, validated

GROUPS = ("single", "multi")
START = "start"  # the finished model itself, for comparison
STRENGTH = "-strength-"  # in a log's name, between those of a variant and a λ
WORLD_SEED = 100  # and up: no stage of the mini sees these samples


@dataclass(frozen=True, config=STRICT)
class Variant:
    """forms: of masks that it is run with · options: of `FlexEdit` · paper: metrics by group"""

    title: str
    section: str
    config: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    without_operation: str | None = None
    mask_kind: str | None = None
    forms: tuple[str, ...] = ("free",)
    trains: bool = True
    run_as: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    is_swept: bool = False
    paper: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def has_own_data(self) -> bool:
        """Whether it is trained on other batches than FlexEdit"""
        return self.without_operation is not None or self.mask_kind is not None

    def trained_with(self, recipe: StageRecipe) -> StageRecipe:
        settings = merged(dataclasses.asdict(recipe), {"losses": self.losses})
        return validated(StageRecipe, settings, self.title)

    def world(self, size: int, seed: int) -> World:
        return World(
            size,
            seed=WORLD_SEED + seed,
            operations={k: w for k, w in OPERATIONS.items() if k != self.without_operation},
            kinds=None if self.mask_kind is None else (self.mask_kind,),
        )


@dataclass(frozen=True, config=STRICT)
class Recipe:
    training: StageRecipe
    seeds: tuple[int, ...]
    strengths: tuple[float, ...]
    variants: dict[str, Variant]

    @property
    def models(self) -> dict[str, Variant]:
        """All but those that run another's model."""
        return {name: one for name, one in self.variants.items() if one.run_as is None}


@dataclass(frozen=True)
class Measurement:
    """One run of a model on the cases: its log's name, and what is run how."""

    name: str
    forms: tuple[str, ...] = ("free",)
    groups: tuple[str, ...] = GROUPS
    paints: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@cache
def recipe() -> Recipe:
    return read_recipe(Recipe, Path(__file__).with_name("recipe.yaml"))


def measurements(model: str) -> Iterator[Measurement]:
    """Those of a variant's model; some are run in other ways too."""
    variant = recipe().variants[model]
    yield Measurement(model, variant.forms, paints=True)
    for name, other in recipe().variants.items():
        if other.run_as == model:
            yield Measurement(name, other.forms, options=other.options)
    for strength in recipe().strengths if variant.is_swept else ():
        options = {"strength": strength}
        yield Measurement(f"{model}{STRENGTH}{strength:g}", groups=("multi",), options=options)
