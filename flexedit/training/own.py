"""Training a model on one's own edits: the paper's two stages, from any model folder.

``align`` is stage 1: the bridge learns to say by the VLLM's hidden states what CLIP's text
encoder says by the caption. ``joint`` is stage 2: L = L_VLLM + L_diffusion, all parts together.
"""

from __future__ import annotations

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
from .recipe import StageRecipe, own_stages
from .run import Stage, Training

ORIGIN = "origin"  # a note of what a folder's training is of


def own_recipe(names: Sequence[str], **changes: Any) -> dict[str, StageRecipe]:
    """The stages of that name, with other settings of `TrainConfig` where one is not None.

    Raises FlexEditError for stages that are unknown or in another order.
    """
    stages = own_stages()
    if list(names) != [name for name in stages if name in names]:
        raise FlexEditError(
            f"The stages are {', '.join(names)}; choose from {', '.join(stages)}, in this order."
        )
    settings = {key: value for key, value in changes.items() if value is not None}
    return {name: stages[name].with_settings(**settings) for name in names}


class OwnTraining(Training):
    """One training in ``folder``, whose result is ``folder/model``.

    start: what it goes on from · data: what it learns from · shown: what its pictures are made of
    """

    def __init__(
        self,
        folder: Path,
        start: ModelFolder,
        data: Edits | Mixture,
        shown: Edits | Mixture,
        recipe: Mapping[str, StageRecipe],
    ) -> None:
        """Raises FlexEditError for `align` of a model without a VLLM."""
        if "align" in recipe and not start.config.vllm:
            raise FlexEditError(
                f"{start.path.name} has neither a VLLM nor a Q-Former to align. Train joint only."
            )
        files = [start.path / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
        data_files, words = data.origin
        origin = fingerprint([*files, *data_files], " ".join(filter(None, [*recipe, words])))
        super().__init__(folder, recipe, {ORIGIN: origin})
        self.start, self.data, self.shown = start, data, shown
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

    def samples(self, name: str) -> Edits | Mixture:
        return self.data

    def learn(self, name: str) -> bool:
        train = self.recipe[name].train
        tensors = self.start.all_tensors()
        if name == "joint" and (self.folder / "align" / WEIGHTS_FILE).is_file():
            tensors = self.handed_on("align")
        half = resolved(train.mixed_precision) == "bf16"
        dtype = torch.bfloat16 if half else torch.float32
        system = self.system(name, self.start, tensors, first_seed=train.seed, dtype=dtype)
        grid = None
        if name == "joint":
            grid = PictureGrid(system, self.folder / "pictures", self.shown)
        return self.fit_system(name, system, grid)
