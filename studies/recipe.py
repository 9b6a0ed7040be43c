"""What a study trains and runs: its ``recipe.yaml``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import field
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass

from flexedit.data.sample import Sample
from flexedit.data.world import OPERATIONS, World
from flexedit.models.config import merged
from flexedit.training.recipe import StageRecipe
from flexedit.validation import STRICT, validated

GROUPS = ("single", "multi")
START = "start"  # the finished model itself, for comparison
STRENGTH = "-strength-"  # in a log's name, between those of a variant and a λ
WORDS = "-words"  # in a log's name, after that of a variant
WORLD_SEED = 100  # and up: no stage of the mini sees these samples


@dataclass(frozen=True, config=STRICT)
class Variant:
    """system: a preset, in the sizes of what all start from (None: its own system) · forms: of
    masks that it is run with · options: of `FlexEdit` · paper: metrics by group
    """

    title: str
    section: str = ""
    system: str | None = None
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
        """Whether it is trained on other batches than the others"""
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
    """What all variants share.

    stages: they are trained in · inherits: what goes on from the finished model that all start
    from, by the checkpoint's prefixes; all else starts anew · reference: the variant that the
    others are compared with · strengths: λ of those that are swept · by_words: the share of edits
    without a mask, whose instruction names everything; if there are some, all variants are run
    so too
    """

    stages: dict[str, StageRecipe]
    inherits: tuple[str, ...]
    reference: str
    seeds: tuple[int, ...]
    variants: dict[str, Variant]
    num_single: int
    num_multi: int
    strengths: tuple[float, ...] = ()
    by_words: float = 0.0

    @property
    def models(self) -> dict[str, Variant]:
        """All but those that run another's model."""
        return {name: one for name, one in self.variants.items() if one.run_as is None}

    def measurements(self, model: str) -> Iterator[Measurement]:
        """Those of a variant's model; some are run in other ways too."""
        variant = self.variants[model]
        yield Measurement(model, variant.forms, paints=True)
        for name, other in self.variants.items():
            if other.run_as == model:
                yield Measurement(name, other.forms, options=other.options)
        for strength in self.strengths if variant.is_swept else ():
            options = {"strength": strength}
            yield Measurement(f"{model}{STRENGTH}{strength:g}", groups=("multi",), options=options)
        if self.by_words:
            yield Measurement(model + WORDS, groups=("single",), options={"by_words": True})


@dataclass(frozen=True)
class Measurement:
    """One run of a model on the cases: its log's name, and what is run how."""

    name: str
    forms: tuple[str, ...] = ("free",)
    groups: tuple[str, ...] = GROUPS
    paints: bool = False
    options: dict[str, Any] = field(default_factory=dict)


class SomeByWords:
    """Samples of which a share of the edits has no mask and says in words what the mask said."""

    def __init__(self, samples: World, share: float) -> None:
        self.samples, self.share = samples, share

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        drawn = np.random.default_rng([self.samples.seed, index]).random()
        if sample.task != "edit" or drawn >= self.share:
            return sample
        return dataclasses.replace(sample, mask=None, instruction=sample.caption)
