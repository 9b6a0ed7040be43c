"""The mini's recipe with hardly any steps, for tests of whole trainings."""

from __future__ import annotations

import dataclasses
import sys

from flexedit.training.recipe import MiniRecipe, mini_recipe
from tests.tiny import TINY


def tiny_plan(steps: int = 2, seed: int = 0) -> MiniRecipe:
    """With its losses and precision."""
    recipe = mini_recipe(seed=seed)
    settings = {"steps": steps, "batch_size": 2, "warmup": 1, "log_every": 1, "lr": 1e-2}
    stages = {name: stage.with_settings(**settings) for name, stage in recipe.stages.items()}
    return dataclasses.replace(recipe, shape=TINY, stages=stages, num_texts=50)


def forget_precision() -> None:
    """accelerate keeps the precision of a process's first Accelerator."""
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
