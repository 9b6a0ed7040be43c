"""The ablation: variants of one system, trained alike from the same parts, run on the same cases.

Each starts from one finished model, flexedit-mini: its VAE, CLIP, VLLM, UNet, Q-Former and edit
tokens. The Mask Enhanced Adapter, which is what the paper ablates (§4.3), starts anew in every
variant, so that none is at home in another's. What becomes of a variant is one log
(`flexedit.benchmark.ablation`): its facts, its curve, a row per case.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..benchmark.ablation import Log
from ..benchmark.build import build
from ..benchmark.cases import Benchmark
from ..benchmark.encoders import Encoders
from ..benchmark.judge import Judge
from ..benchmark.metrics import score
from ..benchmark.run import run
from ..benchmark.systems import FlexEdit
from ..checkpoint import ModelFolder
from ..config import MEAConfig, SystemConfig, TextBridgeConfig
from ..data.assets import CLASSES
from ..data.world import FULL_MASK, OPERATIONS, World
from ..errors import FlexEditError
from ..pipeline import FlexEditPipeline
from .stages import BASE, curve, export_folder
from .system import System
from .trainer import TrainConfig, Trainer

SEEDS = (0, 1, 2)
TRAIN = TrainConfig(steps=900, batch_size=16, lr=3e-4, ema=0.99, mixed_precision="bf16")
RECIPE = dataclasses.replace(BASE, parts=("unet", "mea", "qformer", "vllm"))
WORLD_SEED = 100  # and up: no stage of the mini sees these samples
NUM_SINGLE, NUM_MULTI, CASES_SEED = 120, 80, 11
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True)
class Variant:
    """What differs from the full system: in its config, its recipe, the world it learns from.

    ``forms``: of the masks it is run with afterwards.
    """

    config: Callable[[SystemConfig], SystemConfig] = lambda config: config
    recipe: Mapping[str, Any] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)
    forms: tuple[str, ...] = ("free",)


def with_mea(**changes: Any) -> Callable[[SystemConfig], SystemConfig]:
    return lambda config: dataclasses.replace(
        config, mea=dataclasses.replace(config.mea, **changes)
    )


def instruct_pix2pix(config: SystemConfig) -> SystemConfig:
    """CLIP's text encoder reads the instruction; no VLLM, no adapter."""
    width = config.mea.width
    return dataclasses.replace(
        config,
        bridge="text",
        text=TextBridgeConfig(width, config.context_length),
        num_edit_tokens=0,
        qformer=None,
        lora=None,
        mea=MEAConfig(
            width=width,
            clip_width=config.mea.clip_width,
            num_heads=config.mea.num_heads,
            cross_attention=False,
            subject=False,
        ),
    )


VARIANTS: dict[str, Variant] = {
    "full": Variant(forms=("free", "full")),
    "no-ca": Variant(with_mea(cross_attention=False)),
    "no-dca": Variant(with_mea(decoupled=False)),
    "no-segmentation": Variant(
        world={"operations": {k: v for k, v in OPERATIONS.items() if k != "segment"}}
    ),
    "full-masks": Variant(world={"kinds": (FULL_MASK,)}, forms=("free", "full")),
    "instructpix2pix": Variant(instruct_pix2pix, {"parts": ("unet",), "text": "instruction"}),
    "literal-eq6": Variant(with_mea(residual=False)),
    "shared-kv": Variant(with_mea(share_kv=True)),
    "clean-input": Variant(lambda config: dataclasses.replace(config, vae_input="clean")),
}


@dataclass(frozen=True)
class Ablation:
    """start: what all variants start from · out: where they train · logs: what is kept of them"""

    start: ModelFolder
    out: Path
    logs: Path
    train: TrainConfig = TRAIN
    num_single: int = NUM_SINGLE
    num_multi: int = NUM_MULTI

    def run(self, names: Sequence[str] = tuple(VARIANTS), seeds: Sequence[int] = SEEDS) -> None:
        """Trains and measures; goes on where it was. FlexEditError for a variant unknown."""
        if unknown := [name for name in names if name not in VARIANTS]:
            raise FlexEditError(
                f"Unknown variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}."
            )
        for seed in seeds:
            for name in names:
                self.variant(name, seed)

    def variant(self, name: str, seed: int) -> None:
        folder = self.out / f"{name}-{seed}"
        model = folder / "model"
        if not model.is_dir():
            self.fit(VARIANTS[name], seed, folder)
        pipeline = FlexEditPipeline.from_pretrained(model)
        self.measure(pipeline, name, seed, forms=VARIANTS[name].forms)
        if name == "full":
            self.measure(pipeline, "generate", seed, reply="generate")
            for strength in STRENGTHS:
                swept = f"strength-{strength:g}"
                self.measure(pipeline, swept, seed, groups=("multi",), strength=strength)

    def fit(self, variant: Variant, seed: int, folder: Path) -> None:
        """Trains ``folder/model``."""
        config = variant.config(dataclasses.replace(self.start.config, name=folder.name))
        recipe = dataclasses.replace(RECIPE, **variant.recipe)
        torch.manual_seed(seed)
        system = System(ModelFolder(self.start.path, config), recipe, len(CLASSES), seed)
        system.take_up(self.inherited())
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
        name: str,
        seed: int,
        forms: Sequence[str] = ("free",),
        groups: Sequence[str] = ("single", "multi"),
        **options: Any,
    ) -> None:
        """Runs the cases of the groups and writes the log, unless there is one."""
        path = self.logs / f"{name}-{seed}.jsonl"
        if path.is_file():
            return
        system = FlexEdit(pipeline, name=f"{name}-{seed}", **options)
        benchmark, began = self.benchmark(groups), time.monotonic()
        done = run(benchmark, system, self.out / "results", forms=forms, seed=seed)
        rows = score(benchmark, done, Encoders.load(None, None, None, None), Judge.load())
        trained = pipeline.folder.path.parent / "training"
        steps = curve(trained)
        facts = {
            "variant": name,
            "seed": seed,
            "steps": steps[-1]["step"],
            "batch_size": self.train.batch_size,
            "training_seconds": round(steps[-1]["seconds"]),
            "measuring_seconds": round(time.monotonic() - began),
            "threads": torch.get_num_threads(),
            "device": pipeline.device.type,
        }
        Log(facts, tuple(steps), tuple(rows)).write(path)

    def benchmark(self, groups: Sequence[str]) -> Benchmark:
        folder = self.out / "cases"
        if not folder.is_dir():
            build(folder, seed=CASES_SEED, num_single=self.num_single, num_multi=self.num_multi)
        found = Benchmark(folder)
        found.cases = tuple(case for case in found.cases if case.group in groups)
        return found
