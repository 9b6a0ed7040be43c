"""The ablation: variants of one system, trained alike from the same parts, run on the same cases.

Each starts from one finished model, flexedit-mini: its VAE, CLIP, VLLM, UNet, Q-Former and edit
tokens. The Mask Enhanced Adapter, which is what the paper ablates (§4.3), starts anew in every
variant, so that none is at home in another's. For comparison that model itself is run too.
What becomes of a variant is one log (`logs`): its facts, its curve, a row per case.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from flexedit.benchmark.encoders import Encoders
from flexedit.benchmark.judge import FACTS, FOLDER, WEIGHTS, Judge
from flexedit.benchmark.metrics import require_packages, score
from flexedit.benchmark.run import run
from flexedit.benchmark.systems import FlexEdit
from flexedit.data.world import World
from flexedit.data.world.assets import CLASSES
from flexedit.errors import FlexEditError
from flexedit.files import fingerprint, weights
from flexedit.model_folder import ModelFolder
from flexedit.pipeline import FlexEditPipeline
from flexedit.training.recipe import StageRecipe
from flexedit.training.run import Stage, Training
from flexedit.training.trainer import curve

from .cases import NUM_MULTI, NUM_SINGLE, cases, first_of_each
from .logs import SHOWN_SEED, Log, read_logs, write_pictures
from .recipe import Measurement, Variant, measurements, recipe

STAGE = "training"


class VariantTraining(Training):
    """One variant: ``folder/model`` from the finished model ``start``."""

    def __init__(
        self, folder: Path, start: ModelFolder, variant: Variant, training: StageRecipe, seed: int
    ) -> None:
        training = variant.trained_with(training).with_settings(seed=seed)
        super().__init__(folder, {STAGE: training})
        config = start.config.override({"name": folder.name, **variant.config})
        self.start, self.variant, self.seed = start, variant, seed
        self.model = ModelFolder(start.path, config)
        self.stages = (Stage(STAGE, self.learn), Stage("export", self.ship))

    def samples(self, name: str) -> World:
        return self.variant.world(self.model.config.sampling.size, self.seed)

    def learn(self) -> bool:
        """All but the adapter goes on from the finished model."""
        tensors = self.start.all_tensors()
        inherited = {key: value for key, value in tensors.items() if not key.startswith("mea.")}
        system = self.system(
            STAGE, self.model, inherited, first_seed=self.seed, num_classes=len(CLASSES)
        )
        return self.fit_system(STAGE, system)

    def ship(self) -> bool:
        return self.export(STAGE, self.model, self.folder / "model")


@dataclass(frozen=True)
class Ablation:
    """start: what all variants start from · out: where they train · logs: what is kept of them

    Several processes may share ``out`` and ``logs``; each takes a variant that no other has.
    """

    start: ModelFolder
    out: Path
    logs: Path
    training: StageRecipe = field(default_factory=lambda: recipe().training)
    num_single: int = NUM_SINGLE
    num_multi: int = NUM_MULTI

    def run(self, names: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> None:
        """Trains and measures what has no logs yet; goes on where it was.

        Raises FlexEditError for an unknown variant, for logs or trainings from another start, and
        if what measuring needs is missing.
        """
        names = list(recipe().models) if names is None else names
        if unknown := [name for name in names if name not in recipe().models]:
            raise FlexEditError(
                f"Unknown variant {unknown[0]!r}; choose from {', '.join(recipe().models)}."
            )
        require_packages()
        self.out.mkdir(parents=True, exist_ok=True)
        with FileLock(self.out / "cases.lock"):
            self.claim()
            cases(self.out, self.num_single, self.num_multi)
        for seed in recipe().seeds if seeds is None else seeds:
            for name in names:
                lock = FileLock(self.out / f"{name}-{seed}.lock")
                try:
                    held = lock.acquire(timeout=0)
                except Timeout:  # another process has it
                    continue
                with held:
                    self.train_and_measure(name, seed)

    @cached_property
    def origin(self) -> str:
        """Fingerprint of the weights that all start from."""
        return fingerprint(weights(self.start.path))

    @cached_property
    def judge(self) -> str:
        """Fingerprint of the judge."""
        return fingerprint([FOLDER / WEIGHTS, FOLDER / FACTS])

    def claim(self) -> None:
        """Writes down what trainings in ``out`` start from: no folder may hold those of two starts.

        Raises FlexEditError for a folder of another start, and for logs of another judge.
        """
        note = self.out / "start"
        origins = {self.out: note.read_text() if note.is_file() else self.origin}
        judge = self.judge
        if any(self.logs.glob("*.jsonl")):
            facts = read_logs(self.logs)[0].facts
            origins[self.logs] = facts.get("start", "unknown")
            judge = facts.get("judge", "unknown")
        for folder, origin in origins.items():
            if origin != self.origin:
                raise FlexEditError(
                    f"{folder} belongs to an ablation that started from other weights ({origin}) "
                    f"than those of {self.start.path.name} ({self.origin}). Choose another folder."
                )
        if judge != self.judge:
            raise FlexEditError(
                f"The results in {self.logs} were judged by another judge than this version's. "
                f"Delete the logs there: what is trained in {self.out} is only measured anew."
            )
        note.write_text(self.origin)

    def train_and_measure(self, name: str, seed: int) -> None:
        missing = [run for run in measurements(name) if not self.log(run, seed).is_file()]
        if not missing:
            return
        variant, folder = recipe().models[name], self.out / f"{name}-{seed}"
        model, trained = self.start.path, []
        if variant.trains:
            model = folder / "model"
            if not model.is_dir():
                VariantTraining(folder, self.start, variant, self.training, seed).run()
            trained = curve(folder / STAGE)
        pipeline = FlexEditPipeline.from_pretrained(model)
        for measurement in missing:
            self.measure(pipeline, measurement, seed, trained)

    def log(self, measurement: Measurement, seed: int) -> Path:
        return self.logs / f"{measurement.name}-{seed}.jsonl"

    def measure(
        self,
        pipeline: FlexEditPipeline,
        measurement: Measurement,
        seed: int,
        trained: Sequence[Mapping[str, float]],
    ) -> None:
        """Runs the cases, writes the log and, for one seed, some of the pictures.

        trained: the training's curve, if there was one
        """
        benchmark, began = cases(self.out, self.num_single, self.num_multi), time.monotonic()
        shown = [case for case in first_of_each(benchmark) if case.group in measurement.groups]
        benchmark.cases = tuple(c for c in benchmark.cases if c.group in measurement.groups)
        log = self.log(measurement, seed)
        system = FlexEdit(pipeline, name=log.stem, **measurement.options)
        system.paints = system.paints and measurement.paints
        done = run(benchmark, system, self.out / "results", forms=measurement.forms, seed=seed)
        rows = score(benchmark, done, Encoders.load(None, None, None, None), Judge.load())
        if seed == SHOWN_SEED:
            write_pictures(self.logs, log.stem, [done.picture(case.id) for case in shown])
        facts = {
            "variant": measurement.name,
            "seed": seed,
            "start": self.origin,
            "judge": self.judge,
            "measuring_seconds": round(time.monotonic() - began),
            "threads": torch.get_num_threads(),
            "device": pipeline.device.type,
        }
        if trained:
            train = self.training.train
            facts["steps"] = trained[-1]["step"]
            facts |= {"batch_size": train.batch_size, "lr": train.lr, "optimizer": train.optimizer}
        Log(facts, tuple(trained), tuple(rows)).write(log)
