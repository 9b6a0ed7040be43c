"""Training a model on one's own edits: the paper's two stages, from any model folder.

``align`` is stage 1: the Q-Former learns to say by the VLLM's hidden states what CLIP's text
encoder says by the caption. ``joint`` is stage 2: L = L_VLLM + L_diffusion, all parts together.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..data.edits import Edits
from ..errors import FlexEditError
from ..files import fingerprint
from ..model_folder import CONFIG_FILE, WEIGHTS_FILE, ModelFolder, copy_part, save_model_folder
from ..model_folder.keys import SLOTS as PARTS
from .draws import Recipe
from .model import TrainingModel as System
from .precision import resolved
from .trainer import CHECKPOINT, TrainConfig, Trainer
from .validation import PictureGrid

RECIPES = {
    "align": Recipe("align", parts=("bridge", "vllm")),
    "joint": Recipe("joint", parts=PARTS, text="instruction", region=2.0),
}
ORIGIN = "origin"  # a note of what a folder's training is of
LEARNING_RATES = {"align": 2e-4, "joint": 1e-5}  # SmartEdit's, whose two stages these are


@dataclass(frozen=True)
class OwnTraining:
    """One training in ``folder``, whose result is ``folder/model``.

    start: what it goes on from · data: what it learns from · shown: what its pictures are made of ·
    stages: some of RECIPES, in that order, and how long and in which way each learns.
    """

    folder: Path
    start: ModelFolder
    data: Edits
    shown: Edits
    stages: Mapping[str, TrainConfig]

    def run(self, max_seconds: float | None = None) -> bool:
        """Trains, or goes on where it was, and says whether it came to the end.

        Raises FlexEditError for a folder that holds anything else, for stages that are unknown or
        in another order, and for `align` of a model without a VLLM.
        """
        if list(self.stages) != [name for name in RECIPES if name in self.stages]:
            raise FlexEditError(
                f"The stages are {', '.join(self.stages)}; choose from {', '.join(RECIPES)}, in "
                "this order."
            )
        if "align" in self.stages and not self.start.config.vllm:
            raise FlexEditError(
                f"{self.start.path.name} has neither a VLLM nor a Q-Former to align. "
                "Train joint only."
            )
        from accelerate import PartialState

        end = None if max_seconds is None else time.monotonic() + max_seconds
        processes = PartialState(cpu=not torch.cuda.is_available())
        self.check_folder()
        processes.wait_for_everyone()  # until all have looked
        if processes.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ORIGIN).write_text(self.origin)
        tensors = self.start.all_tensors()
        for name in self.to_do:
            left = None if end is None else max(0.0, end - time.monotonic())
            finished, tensors = self.stage(name, tensors, left)
            gc.collect()  # the stage's parts, before the next one's
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not finished:
                return False
        if processes.is_main_process:
            self.export(tensors)
        processes.wait_for_everyone()
        return True

    @cached_property
    def origin(self) -> str:
        files = [self.start.path / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
        return fingerprint([*files, *self.data.reader.files], " ".join(self.stages))

    def check_folder(self) -> None:
        note = self.folder / ORIGIN
        if not note.is_file() and self.folder.is_dir() and any(self.folder.iterdir()):
            raise FlexEditError(f"{self.folder} holds something else. Choose another --out.")
        if note.is_file() and note.read_text() != self.origin:
            raise FlexEditError(
                f"{self.folder} holds a training of another model, other data or other stages. "
                "Choose another --out, or delete it."
            )

    @property
    def to_do(self) -> list[str]:
        """The stages from the last one that has begun: it has what those before it made."""
        names = list(self.stages)
        begun = [name for name in names if (self.folder / name / CHECKPOINT).is_file()]
        return names[names.index(begun[-1]) :] if begun else names

    def stage(
        self, name: str, tensors: Mapping[str, Tensor], max_seconds: float | None
    ) -> tuple[bool, dict[str, Tensor]]:
        """Whether it is finished, and what it has made of the tensors it began with."""
        train = self.stages[name]
        torch.manual_seed(train.seed)
        half = resolved(train.mixed_precision) == "bf16"
        dtype = torch.bfloat16 if half else torch.float32
        system = System(self.start, RECIPES[name], 0, train.seed, dtype)
        system.start_from(tensors)
        grid = None
        if name == "joint":
            grid = PictureGrid(system, self.folder / "pictures", self.shown)
        trainer = Trainer(system, self.data, train, self.folder / name, grid)
        trainer.run(max_seconds)
        with trainer.averaged():
            return trainer.finished, {
                k: v.detach().cpu().clone() for k, v in system.tensors().items()
            }

    def export(self, tensors: Mapping[str, Tensor]) -> None:
        """The model folder to use: the parts as they were, beside what was trained."""
        unfinished, model = self.folder / "model.unfinished", self.folder / "model"
        shutil.rmtree(unfinished, ignore_errors=True)
        for part, source in self.start.config.sources.items():
            if source.folder is not None:
                copy_part(self.start.part(part), unfinished / source.folder)
        save_model_folder(unfinished, self.start.config, tensors)
        shutil.rmtree(model, ignore_errors=True)
        unfinished.rename(model)
