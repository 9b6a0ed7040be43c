"""Training a model from any model folder, on one's own edits or by the recipe of a whole system.

``align`` is the paper's stage 1: the bridge learns to say by the VLLM's hidden states what CLIP's
text encoder says by the caption. ``joint`` is stage 2: L = L_VLLM + L_diffusion, all parts
together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..data.edits import Edits
from ..data.mixture import Mixture
from ..errors import FlexEditError
from ..files import fingerprint
from ..model_folder import CONFIG_FILE, WEIGHTS_FILE, ModelFolder
from .precision import resolved
from .preview import PictureGrid
from .recipe import StageRecipe, as_yaml, own_stages
from .run import Stage, Training

Data = Edits | Mixture  # what has an origin
RECIPE = "recipe.yaml"  # in a run's folder
ORIGIN = "origin"  # a note of what a folder's training is of


def own_recipe(
    names: Sequence[str], overrides: Sequence[str] = (), seed: int = 0, **changes: Any
) -> dict[str, StageRecipe]:
    """The stages of that name, with other settings of `TrainConfig` where one is not None, nor ().

    overrides, seed: as `read_recipe` has them

    Raises FlexEditError for stages that are unknown or in another order.
    """
    stages = own_stages(overrides, seed)
    if list(names) != [name for name in stages if name in names]:
        raise FlexEditError(
            f"The stages are {', '.join(names)}; choose from {', '.join(stages)}, in this order."
        )
    settings = {key: value for key, value in changes.items() if value not in (None, ())}
    return {name: stages[name].with_settings(**settings) for name in names}


class OwnTraining(Training):
    """One training in ``folder``, whose result is ``folder/model``.

    start: what it goes on from · data: what it learns from, or each stage does, by the stage's own
    seed · shown: what its pictures are made of
    """

    def __init__(
        self,
        folder: Path,
        start: ModelFolder,
        data: Data | Mapping[str, Data],
        shown: Edits | Mixture,
        recipe: Mapping[str, StageRecipe],
    ) -> None:
        """Raises FlexEditError for `align` of a model without a VLLM, and for what `check` does."""
        aligns = any(stage.losses and stage.losses.stage == "align" for stage in recipe.values())
        if aligns and not start.config.vllm:
            raise FlexEditError(
                f"{start.path.name} has neither a VLLM nor a Q-Former to align. Train joint only."
            )
        for stage in recipe.values():
            stage.check(start.config)
        files = [start.path / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
        by_stage = dict(data) if isinstance(data, Mapping) else dict.fromkeys(recipe, data)
        words = list(recipe)
        for one in {id(one): one for one in by_stage.values()}.values():
            data_files, said = one.origin
            files, words = [*files, *data_files], [*words, said]
        self.data = {name: by_stage[name].seeded(it.train.seed) for name, it in recipe.items()}
        origin = fingerprint(files, " ".join(filter(None, words)))
        super().__init__(folder, recipe, {ORIGIN: origin})
        self.start, self.shown = start, shown
        self.stages = [
            *(Stage(name, partial(self.learn, name)) for name in recipe),
            Stage("export", partial(self.export, list(recipe)[-1], start, folder / "model")),
        ]

    def check_folder(self) -> None:
        origin = self.note(ORIGIN)
        if origin is None and self.folder.is_dir() and any(self.folder.iterdir()):
            raise FlexEditError(f"{self.folder} holds something else. Choose another --out.")
        if origin not in (None, self.notes[ORIGIN]):
            raise FlexEditError(
                f"{self.folder} holds a training of another model, other data or other stages. "
                "Choose another --out, or delete it."
            )

    def claim(self) -> None:
        """Keeps the resolved recipe beside the run, as it was last run."""
        super().claim()
        if self.writes:
            text = as_yaml({name: dataclasses.asdict(it) for name, it in self.recipe.items()})
            (self.folder / RECIPE).write_text(text, encoding="utf-8")

    def samples(self, name: str) -> Data:
        return self.data[name]

    def learn(self, name: str) -> bool:
        train = self.recipe[name].train
        tensors, names = self.start.all_tensors(), list(self.recipe)
        before = names[: names.index(name)][-1:]
        if before and (self.folder / before[0] / WEIGHTS_FILE).is_file():
            tensors = self.handed_on(before[0])
        half = resolved(train.mixed_precision) == "bf16"
        dtype = torch.bfloat16 if half else torch.float32
        system = self.system(name, self.start, tensors, first_seed=train.seed, dtype=dtype)
        grid = None
        losses = self.recipe[name].losses
        if losses is not None and losses.stage == "joint":
            pictures = self.folder / "pictures"
            grid = PictureGrid(system, pictures, self.shown, writes=self.writes)
        return self.fit_system(name, system, grid)
