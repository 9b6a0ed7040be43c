"""A study: variants, trained alike from the same parts, run on the same cases.

Each starts from one finished model, flexedit-mini. What is studied starts anew in every variant, so
that none is at home in another's; the recipe says what goes on. What becomes of a variant is one
log (`logs`): its facts, its curve, a row per case.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from flexedit.benchmark.cases import Benchmark
from flexedit.benchmark.encoders import Encoders
from flexedit.benchmark.judge import FACTS, FOLDER, WEIGHTS, Judge
from flexedit.benchmark.metrics import require_packages, score
from flexedit.benchmark.run import run
from flexedit.benchmark.systems import FlexEdit
from flexedit.data.world.assets import CLASSES
from flexedit.errors import FlexEditError
from flexedit.files import fingerprint, weights
from flexedit.model_folder import ModelFolder
from flexedit.model_folder.keys import prefix_of
from flexedit.models.config import SystemConfig
from flexedit.pipeline import FlexEditPipeline
from flexedit.systems import preset
from flexedit.training.batch import Samples
from flexedit.training.monitor import curve
from flexedit.training.run import Stage, Training

from .cases import cases, first_of_each
from .logs import SHOWN_SEED, Log, core_minutes, read_logs, write_pictures
from .recipe import Measurement, Recipe, SomeByWords, Variant


class VariantTraining(Training):
    """One variant of a study: ``folder/model`` from the finished model ``start``."""

    def __init__(
        self, folder: Path, start: ModelFolder, study: Recipe, variant: Variant, seed: int
    ) -> None:
        config = start.config if variant.system is None else in_sizes_of(start, variant.system)
        config = config.override({"name": folder.name, **variant.config})
        recipe = {
            name: variant.trained_with(stage).with_settings(seed=seed)
            for name, stage in study.stages.items()
            if config.vllm or stage.losses.stage != "align"
        }
        super().__init__(folder, recipe)
        self.start, self.study, self.variant, self.seed = start, study, variant, seed
        self.model = ModelFolder(start.path, config)
        self.stages = [Stage(name, partial(self.learn, name)) for name in recipe]
        self.stages.append(Stage("export", self.ship))

    def samples(self, name: str) -> Samples:
        world = self.variant.world(self.model.config.sampling.size, self.seed)
        return SomeByWords(world, self.study.by_words)

    def learn(self, name: str) -> bool:
        """What is inherited goes on from the finished model."""
        number = list(self.recipe).index(name)
        if number:
            start = self.handed_on(list(self.recipe)[number - 1])
        else:
            tensors = self.start.all_tensors()
            start = {k: v for k, v in tensors.items() if prefix_of(k) in self.study.inherits}
        system = self.system(
            name, self.model, start, first_seed=self.seed, num_classes=len(CLASSES)
        )
        return self.fit_system(name, system)

    def ship(self) -> bool:
        return self.export(list(self.recipe)[-1], self.model, self.folder / "model")


def in_sizes_of(start: ModelFolder, system: str) -> SystemConfig:
    """Another system beside the same VLLM, CLIP, VAE and UNet as a FlexEdit's."""
    config = start.config.to_dict()
    parts = config["bridge"] | config["adapter"]
    sizes = {name: size for name, size in parts.items() if type(size) in (int, float)}
    sizes |= {
        "vision_width": start.load_clip().vision_width,
        "inner_width": sizes["width"],
        "channels": config["unet"]["block_out_channels"][0],
    }
    shared = ("name", "diffusion", "unet", "sources", "sampling")
    return preset(system, {name: config[name] for name in shared}, sizes)


@dataclass(frozen=True)
class Study:
    """recipe: what is trained and run · start: what all variants start from · out: where they
    train · logs: what is kept of them

    Several processes may share ``out`` and ``logs``; each takes a variant that no other has.
    """

    recipe: Recipe
    start: ModelFolder
    out: Path
    logs: Path

    def run(self, names: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> None:
        """Trains and measures what has no logs yet; goes on where it was.

        Raises FlexEditError for an unknown variant, for logs or trainings from another start, and
        if what measuring needs is missing.
        """
        models = self.recipe.models
        names = list(models) if names is None else names
        if unknown := [name for name in names if name not in models]:
            raise FlexEditError(f"Unknown variant {unknown[0]!r}; choose from {', '.join(models)}.")
        require_packages()
        self.out.mkdir(parents=True, exist_ok=True)
        with FileLock(self.out / "cases.lock"):
            self.claim()
            self.cases()
        for seed in self.recipe.seeds if seeds is None else seeds:
            for name in names:
                lock = FileLock(self.out / f"{name}-{seed}.lock")
                try:
                    held = lock.acquire(timeout=0)
                except Timeout:  # another process has it
                    continue
                with held:
                    self.train_and_measure(name, seed)

    def cases(self) -> Benchmark:
        return cases(self.out, self.recipe.num_single, self.recipe.num_multi)

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
                    f"{folder} belongs to a study that started from other weights ({origin}) "
                    f"than those of {self.start.path.name} ({self.origin}). Choose another folder."
                )
        if judge != self.judge:
            raise FlexEditError(
                f"The results in {self.logs} were judged by another judge than this version's. "
                f"Delete the logs there: what is trained in {self.out} is only measured anew."
            )
        note.write_text(self.origin)

    def train_and_measure(self, name: str, seed: int) -> None:
        missing = [
            run for run in self.recipe.measurements(name) if not self.log(run, seed).is_file()
        ]
        if not missing:
            return
        variant, folder = self.recipe.models[name], self.out / f"{name}-{seed}"
        model, curves = self.start.path, []
        if variant.trains:
            model = folder / "model"
            if not model.is_dir():
                VariantTraining(folder, self.start, self.recipe, variant, seed).run()
            stages = [folder / name for name in self.recipe.stages]
            curves = [curve(stage) for stage in stages if stage.is_dir()]
        pipeline = FlexEditPipeline.from_pretrained(model)
        for measurement in missing:
            self.measure(pipeline, measurement, seed, curves)

    def log(self, measurement: Measurement, seed: int) -> Path:
        return self.logs / f"{measurement.name}-{seed}.jsonl"

    def measure(
        self,
        pipeline: FlexEditPipeline,
        measurement: Measurement,
        seed: int,
        curves: Sequence[Sequence[Mapping[str, float]]],
    ) -> None:
        """Runs the cases, writes the log and, for one seed, some of the pictures.

        curves: of the training's stages, if there was one
        """
        benchmark, began = self.cases(), time.monotonic()
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
        last = curves[-1] if curves else ()
        if last:
            train = list(self.recipe.stages.values())[-1].train
            facts["steps"] = last[-1]["step"]
            facts |= {"batch_size": train.batch_size, "lr": train.lr, "optimizer": train.optimizer}
            taken = [core_minutes(one, facts["threads"]) for one in curves if len(one) > 1]
            facts["core_minutes"] = round(sum(taken), 1)
        Log(facts, tuple(last), tuple(rows)).write(log)
