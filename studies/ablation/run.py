"""The ablation: variants of one system, trained alike from the same parts, run on the same cases.

Each starts from one finished model, flexedit-mini: its VAE, CLIP, VLLM, UNet, Q-Former and edit
tokens. The Mask Enhanced Adapter, which is what the paper ablates (§4.3), starts anew in every
variant, so that none is at home in another's. For comparison that model itself is run too.
What becomes of a variant is one log (`logs`): its facts, its curve, a row per case.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from flexedit.benchmark.encoders import Encoders
from flexedit.benchmark.judge import FACTS, FOLDER, WEIGHTS, Judge
from flexedit.benchmark.metrics import require_packages, score
from flexedit.benchmark.run import run
from flexedit.benchmark.systems import FlexEdit
from flexedit.data.world import FULL_MASK, OPERATIONS, World
from flexedit.data.world.assets import CLASSES
from flexedit.errors import FlexEditError
from flexedit.files import fingerprint, weights
from flexedit.model_folder import ModelFolder
from flexedit.model_folder.keys import SLOTS as PARTS
from flexedit.pipeline import FlexEditPipeline
from flexedit.training.model import TrainingModel
from flexedit.training.stages import BASE, curve, export_folder
from flexedit.training.trainer import TrainConfig, Trainer

from .cases import GROUPS, NUM_MULTI, NUM_SINGLE, cases, first_of_each
from .logs import SHOWN_SEED, START, STRENGTH, SWEPT, Log, read_logs, write_pictures

SEEDS = (0, 1, 2)
TRAIN = TrainConfig(
    steps=900,
    batch_size=16,
    lr=5e-4,
    optimizer="muon",
    ema=0.99,
    mixed_precision="auto",
    checkpoint_every=100,
    log_every=10,
)
RECIPE = dataclasses.replace(BASE, parts=PARTS)
WORLD_SEED = 100  # and up: no stage of the mini sees these samples
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5)  # λ; 1 is how all are run


@dataclass(frozen=True)
class Variant:
    """What differs from the full system: in its config, its recipe, the world it learns from.

    ``forms``: of the masks it is run with afterwards · ``trains``: whether at all.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)
    forms: tuple[str, ...] = ("free",)
    trains: bool = True


# CLIP's text encoder reads the instruction; no VLLM, no adapter
INSTRUCT_PIX2PIX = {"vllm": None, "bridge": {"type": "clip_text"}, "adapter": None}
VARIANTS: dict[str, Variant] = {
    "full": Variant(forms=("free", "full")),
    "no-ca": Variant({"adapter": {"cross_attention": False}}),
    "no-dca": Variant({"adapter": {"decoupled": False}}),
    "no-segmentation": Variant(
        world={"operations": {k: v for k, v in OPERATIONS.items() if k != "segment"}}
    ),
    "full-masks": Variant(world={"kinds": (FULL_MASK,)}, forms=("free", "full")),
    "instructpix2pix": Variant(INSTRUCT_PIX2PIX, {"parts": ("unet",), "text": "instruction"}),
    "literal-eq6": Variant({"adapter": {"residual": False}}),
    "shared-kv": Variant({"adapter": {"share_kv": True}}),
    "clean-input": Variant({"vae_input": "clean"}),
    START: Variant(forms=("free", "full"), trains=False),
}


@dataclass(frozen=True)
class Measurement:
    """One run of a variant on the cases: its log's name, and what is run how."""

    name: str
    forms: tuple[str, ...] = ("free",)
    groups: tuple[str, ...] = GROUPS
    paints: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)  # of `FlexEdit`


def measurements(name: str) -> Iterator[Measurement]:
    """Those of a variant; some are run in other ways too."""
    yield Measurement(name, VARIANTS[name].forms)
    if name == "full":
        yield Measurement("generate", paints=False, options={"reply": "generate"})
    if name in SWEPT:
        for strength in STRENGTHS:
            options = {"strength": strength}
            yield Measurement(
                f"{name}{STRENGTH}{strength:g}", groups=("multi",), paints=False, options=options
            )


@dataclass(frozen=True)
class Ablation:
    """start: what all variants start from · out: where they train · logs: what is kept of them

    Several processes may share ``out`` and ``logs``; each takes a variant that no other has.
    """

    start: ModelFolder
    out: Path
    logs: Path
    train: TrainConfig = TRAIN
    num_single: int = NUM_SINGLE
    num_multi: int = NUM_MULTI

    def run(self, names: Sequence[str] = tuple(VARIANTS), seeds: Sequence[int] = SEEDS) -> None:
        """Trains and measures what has no logs yet; goes on where it was.

        Raises FlexEditError for an unknown variant, for logs or trainings from another start, and
        if what measuring needs is missing.
        """
        if unknown := [name for name in names if name not in VARIANTS]:
            raise FlexEditError(
                f"Unknown variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}."
            )
        require_packages()
        self.out.mkdir(parents=True, exist_ok=True)
        with FileLock(self.out / "cases.lock"):
            self.claim()
            cases(self.out, self.num_single, self.num_multi)
        for seed in seeds:
            for name in names:
                lock = FileLock(self.out / f"{name}-{seed}.lock")
                try:
                    held = lock.acquire(timeout=0)
                except Timeout:  # another process has it
                    continue
                with held:
                    self.variant(name, seed)

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
        judge = self.judge
        known = {self.out: note.read_text() if note.is_file() else self.origin}
        if any(self.logs.glob("*.jsonl")):
            facts = read_logs(self.logs)[0].facts
            known[self.logs] = facts.get("start", "unknown")
            judge = facts.get("judge", "unknown")
        for folder, start in known.items():
            if start != self.origin:
                raise FlexEditError(
                    f"{folder} belongs to an ablation that started from other weights ({start}) "
                    f"than those of {self.start.path.name} ({self.origin}). Choose another folder."
                )
        if judge != self.judge:
            raise FlexEditError(
                f"The results in {self.logs} were judged by another judge than this version's. "
                f"Delete the logs there: what is trained in {self.out} is only measured anew."
            )
        note.write_text(self.origin)

    def variant(self, name: str, seed: int) -> None:
        wanted = [one for one in measurements(name) if not self.log(one, seed).is_file()]
        if not wanted:
            return
        variant, folder = VARIANTS[name], self.out / f"{name}-{seed}"
        model = folder / "model" if variant.trains else self.start.path
        if not model.is_dir():
            self.fit(variant, seed, folder)
        pipeline = FlexEditPipeline.from_pretrained(model)
        trained = curve(folder / "training") if variant.trains else []
        for one in wanted:
            self.measure(pipeline, one, seed, trained)

    def log(self, measurement: Measurement, seed: int) -> Path:
        return self.logs / f"{measurement.name}-{seed}.jsonl"

    def fit(self, variant: Variant, seed: int, folder: Path) -> None:
        """Trains ``folder/model``."""
        config = self.start.config.override({"name": folder.name, **variant.config})
        recipe = dataclasses.replace(RECIPE, **variant.recipe)
        torch.manual_seed(seed)
        system = TrainingModel(ModelFolder(self.start.path, config), recipe, len(CLASSES), seed)
        system.start_from(self.inherited())
        world = World(config.sampling.size, seed=WORLD_SEED + seed, **variant.world)
        trainer = Trainer(
            system, world, dataclasses.replace(self.train, seed=seed), folder / "training"
        )
        trainer.run()
        with trainer.averaged():
            export_folder(self.start.path, folder / "exported", config, system.tensors())
        (folder / "exported").rename(folder / "model")

    def inherited(self) -> dict[str, torch.Tensor]:
        """All but the adapter, by the checkpoint's names."""
        tensors = self.start.all_tensors()
        return {key: tensor for key, tensor in tensors.items() if not key.startswith("mea.")}

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
            recipe = dataclasses.asdict(self.train)
            facts["steps"] = trained[-1]["step"]
            facts |= {key: recipe[key] for key in ("batch_size", "lr", "optimizer")}
        Log(facts, tuple(trained), tuple(rows)).write(log)
