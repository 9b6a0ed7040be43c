"""One training in one folder: the stages it goes through, where it goes on, what comes out.

A note in the folder says what the training is of. ``<stage>/`` has the trainer's checkpoint and log
and, of a stage that trains a system, ``flexedit.safetensors``: all that is trained so far.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import FlexEditError
from ..model_folder import WEIGHTS_FILE, ModelFolder, copy_part, save_model_folder
from ..model_folder.weights import portable_name, read_config
from . import checkpoint
from .batch import Batch, Samples
from .cache import Cached
from .hub import Hub
from .model import TrainingModel
from .optimizer import optimizer_class
from .precision import computing
from .preview import PictureGrid
from .processes import whole_tensors
from .recipe import StageRecipe
from .trainer import Trainer


@dataclass(frozen=True)
class Stage:
    """run: goes on where it was, until it is done or late, and says whether it is done"""

    name: str
    run: Callable[[], bool]
    needs: tuple[str, ...] = ()  # stages that must be done before


class Training:
    """Stages in ``folder``; run again, they go on where they were.

    recipe: by stage, of those that train something · notes: by file name, what the training is of
    """

    stages: Sequence[Stage] = ()

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, StageRecipe],
        notes: Mapping[str, str] | None = None,
    ) -> None:
        from accelerate import PartialState

        self.folder, self.recipe, self.notes = folder, recipe, notes or {}
        self.processes = PartialState(cpu=not torch.cuda.is_available())
        self.writes = self.processes.is_main_process  # what all processes have made
        self.deadline: float | None = None  # of `time.monotonic`
        self.hub: Hub | None = None  # what checkpoints are sent to

    def run(self, names: Sequence[str] | None = None, max_seconds: float | None = None) -> bool:
        """Runs those stages (default: all) and says whether it came to the end.

        Raises FlexEditError for unknown stages, for those that lack what an earlier one makes, and
        for the folder of another training.
        """
        stages = {stage.name: stage for stage in self.stages}
        names = list(stages) if names is None else names
        for number, name in enumerate(names):
            if name not in stages:
                raise FlexEditError(f"Unknown stage {name!r}; choose from {', '.join(stages)}.")
            if self.is_done(name):
                continue
            if name in self.recipe:
                optimizer_class(self.recipe[name].train.optimizer)  # missing? say so at once
            needs = [need for need in stages[name].needs if need not in names[:number]]
            if missing := [need for need in needs if not self.is_done(need)]:
                raise FlexEditError(
                    f"The stage {name} starts from {' and '.join(missing)}, which "
                    f"{self.folder} has not finished. Run that first."
                )
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.claim()
        for name in names:
            if self.is_done(name):
                continue
            is_done = stages[name].run()
            self.processes.wait_for_everyone()
            if not is_done:
                return False
            self.finish(name)
            gc.collect()  # the stage's parts, before the next one's
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return True

    def claim(self) -> None:
        """Takes the folder for this training, unless it has another one."""
        self.check_folder()
        self.processes.wait_for_everyone()  # until all have looked
        for name, note in self.notes.items():
            if self.writes and self.note(name) is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_text(note, encoding="utf-8")

    def check_folder(self) -> None:
        """Raises FlexEditError for the folder of another training."""

    def note(self, name: str) -> str | None:
        file = self.folder / name
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def is_done(self, name: str) -> bool:
        """Whether a later stage has begun, with what this one made; the last one may go on."""
        names = [stage.name for stage in self.stages]
        later = names[names.index(name) + 1 :]
        return any(checkpoint.latest(self.folder / after) for after in later)

    def finish(self, name: str) -> None:
        """What is to be done when a stage has come to its end."""

    def samples(self, name: str) -> Samples:
        """What a stage learns from."""
        raise NotImplementedError

    def fit(self, name: str, trainee: Any, validate: Callable[[int], Any] | None = None) -> Trainer:
        config, cache = self.recipe[name].train, self.recipe[name].cache
        samples = self.samples(name)
        if cache is not None:
            device, folder = self.processes.device, self.folder / name / "cache"
            trainee.to(device)

            def remember(batch: Batch, first: int) -> Mapping[str, Tensor]:
                with computing(config.mixed_precision, device):
                    return trainee.remember(batch, first, with_vllm=cache.vllm)

            samples = Cached(samples, cache, folder, remember, device, self.processes, config.seed)
        trainer = Trainer(trainee, samples, config, self.folder / name, validate, self.hub)
        trainer.run(self.deadline)
        if trainer.finished and self.writes:
            shutil.rmtree(self.folder / name / "cache", ignore_errors=True)
        return trainer

    def system(
        self,
        name: str,
        model: ModelFolder,
        start: Mapping[str, Tensor] | None = None,
        *,
        first_seed: int,
        num_classes: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> TrainingModel:
        """What a stage trains: fresh parts, or those of ``start``, beside the model's frozen ones.

        first_seed: of the fresh parts · num_classes: that helpers learn · dtype: of frozen VLLMs
        """
        recipe = self.recipe[name]
        assert recipe.losses is not None
        torch.manual_seed(first_seed)
        system = TrainingModel(model, recipe.losses, num_classes, recipe.train.seed, dtype)
        if start is not None:
            system.start_from(start)
        return system

    def fit_system(
        self, name: str, system: TrainingModel, validate: PictureGrid | None = None
    ) -> bool:
        """Hands on all that is trained so far, when it is done."""
        trainer = self.fit(name, system, validate)
        if trainer.finished:
            with trainer.averaged():
                tensors = whole_tensors(system.tensors())
                if self.writes:
                    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
                    save_file(tensors, self.folder / name / WEIGHTS_FILE)
        return trainer.finished

    def handed_on(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / name / WEIGHTS_FILE)

    def export(
        self, name: str, model: ModelFolder, target: Path, *, halves_parts: bool = False
    ) -> bool:
        """Makes a model folder of what a stage has handed on, beside the model's frozen parts."""
        if self.writes:
            export(model, target, self.handed_on(name), halves_parts=halves_parts)
        return True


def export(
    model: ModelFolder, target: Path, tensors: Mapping[str, Tensor], *, halves_parts: bool = False
) -> None:
    """A model folder to use, which replaces ``target`` when it is whole: the frozen parts of
    ``model`` as they are, or in half precision, beside what was trained.
    """
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part, source in model.config.sources.items():
        if source.folder is not None:
            copy_part(model.part(part), unfinished / source.folder)
            if halves_parts:
                halve(unfinished / source.folder)
    save_model_folder(unfinished, model.config, tensors)
    for file in unfinished.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes files that only their owner may read
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def halve(folder: Path) -> None:
    """A part in half precision, under names that every version of transformers reads."""
    settings = read_config(folder)
    for file in folder.glob("*.safetensors"):
        tensors = {portable_name(k, settings): v.half() for k, v in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    settings.pop("_name_or_path", None)  # where it was trained is nobody's business
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
