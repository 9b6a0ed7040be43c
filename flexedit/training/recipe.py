"""Recipes: YAML files that say what a training's stages learn, and for how long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from ..files import read_yaml
from ..validation import STRICT, T, validated
from .draws import Recipe as Losses
from .pretrain.shape import Shape
from .trainer import TrainConfig

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True, config=STRICT)
class StageRecipe:
    """losses: what of a system learns, and by which losses; None for a stage that has its own"""

    train: TrainConfig
    losses: Losses | None = None

    def with_settings(self, **settings: Any) -> StageRecipe:
        """The same with other settings of its `TrainConfig`"""
        return replace(self, train=replace(self.train, **settings))


@dataclass(frozen=True, config=STRICT)
class Stages:
    stages: dict[str, StageRecipe]


@dataclass(frozen=True, config=STRICT)
class MiniRecipe(Stages):
    shape: Shape
    num_texts: int  # samples whose words the tokenizers learn from


def read_recipe(kind: type[T], file: Path) -> T:
    """Raises FlexEditError for a file that cannot be read, and for settings that are not ours."""
    return validated(kind, read_yaml(file), str(file))


def mini_recipe() -> MiniRecipe:
    return read_recipe(MiniRecipe, FOLDER / "mini.yaml")


def own_stages() -> dict[str, StageRecipe]:
    return read_recipe(Stages, FOLDER / "own.yaml").stages
