"""From nothing to ``flexedit-mini`` in ten stages, each resumable, by one command.

parts → vae → clip → vision → vllm → base → align → joint → decoder → export. ``vae`` to ``vllm``
make what others download. ``base`` trains UNet and MEA on CLIP's text embedding of captions that
name everything (what Stable Diffusion is to FlexEdit). ``align`` is the paper's stage 1: the
Q-Former learns to say by the VLLM's hidden states what CLIP's text encoder says by the caption; it
needs nothing of ``base``. ``joint`` is stage 2: L = L_VLLM + L_diffusion, all of FlexEdit's parts
together, starting from both. ``decoder`` lets the VAE's decoder forgive what a UNet gets wrong.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..data.world import World
from ..data.world.assets import CLASSES
from ..errors import FlexEditError
from ..model_folder import WEIGHTS_FILE, ModelFolder, load_vllm, save_model_folder
from ..model_folder.keys import SLOTS as PARTS
from ..model_folder.keys import slot_of
from ..model_folder.weights import make_portable, portable_name, read_config
from ..models.config import SystemConfig
from ..models.preprocess import Preprocess
from . import mini
from .batch import collate
from .draws import Recipe
from .model import TrainingModel as System
from .pretrain import (
    CLIPPretraining,
    DecoderPretraining,
    VAEPretraining,
    VisionPretraining,
    VLLMPretraining,
    describe,
)
from .trainer import Optimizer, TrainConfig, Trainer, optimizer_class
from .validation import VALIDATION_SEED, PictureGrid

BASE = Recipe(
    stage="joint",
    parts=("unet", "adapter"),
    noises=2,
    region=2.0,
    helper_classes=0.1,
    helper_result=0.1,
    helper_mask=0.2,
)


@dataclass(frozen=True)
class Stage:
    train: TrainConfig
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Plan:
    """How long each stage trains, and on what."""

    shape: mini.Shape = mini.MINI
    stages: dict[str, Stage] = field(default_factory=dict)
    num_texts: int = 6000  # samples whose words the tokenizers are trained on


def mini_train(
    steps: int, batch_size: int, lr: float, ema: float = 0.0, optimizer: Optimizer = "muon"
) -> TrainConfig:
    return TrainConfig(
        steps, batch_size, lr, optimizer, ema=ema, mixed_precision="auto", validate_every=1000
    )


MINI_PLAN = Plan(
    stages={
        "vae": Stage(mini_train(6000, 16, 1.5e-3, ema=0.997)),
        "clip": Stage(mini_train(6000, 32, 1e-3, optimizer="adamw")),
        "vision": Stage(mini_train(32000, 32, 1.5e-3)),
        "vllm": Stage(mini_train(22500, 16, 1e-3)),
        "base": Stage(mini_train(24000, 32, 1e-3, ema=0.997), BASE),
        "align": Stage(
            mini_train(4000, 16, 1e-3),
            Recipe(stage="align", parts=("bridge", "vllm")),
        ),
        "joint": Stage(
            mini_train(3000, 32, 6e-4, ema=0.997),
            dataclasses.replace(BASE, parts=PARTS),
        ),
        "decoder": Stage(mini_train(6000, 16, 1e-3, ema=0.997)),
    }
)
NEEDS: dict[str, tuple[str, ...]] = {
    "parts": (),
    "vae": ("parts",),
    "clip": ("parts",),
    "vision": ("parts",),
    "vllm": ("vision",),
    "base": ("vae", "clip"),
    "align": ("clip", "vllm"),
    "joint": ("base", "align"),
    "decoder": ("vae",),
    "export": ("joint", "decoder"),
}
ORDER = tuple(NEEDS)
MAX_WORKERS = 16  # of one loader, however many cores there are
SEED_STRIDE = 10_000  # beyond the seeds of stages, validation and ablation
TRAINED_BY = {"base": ("unet", "adapter"), "align": ("bridge", "vllm")}  # what `joint` starts from


class MiniTraining:
    """One training of a mini in ``folder``; ``folder/model`` grows from stage to stage.

    Another ``seed`` trains on other samples, with other noise, and into another folder.
    """

    def __init__(self, folder: Path, plan: Plan = MINI_PLAN, seed: int = 0) -> None:
        from accelerate import PartialState

        self.folder, self.plan, self.seed, self.model = folder, plan, seed, folder / "model"
        self.processes = PartialState(cpu=not torch.cuda.is_available())

    def run(self, names: tuple[str, ...] = ORDER, max_seconds: float | None = None) -> None:
        """Raises FlexEditError for a folder of another seed, and for stages that cannot be run."""
        self._check_seed()
        for name in names:
            if name not in ORDER:
                raise FlexEditError(f"Unknown stage {name!r}; choose from {', '.join(ORDER)}.")
            if name in self.plan.stages and not self._done(name).is_file():
                optimizer_class(self.plan.stages[name].train.optimizer)  # missing? say so at once
        end = None if max_seconds is None else time.monotonic() + max_seconds
        for name in names:
            if not self._done(name).is_file():
                if missing := [one for one in NEEDS[name] if not self._done(one).is_file()]:
                    raise FlexEditError(
                        f"The stage {name} starts from {' and '.join(missing)}, which "
                        f"{self.folder} has not finished. Run that first."
                    )
                stage: Callable[..., bool] = getattr(self, name)
                finished = stage(None if end is None else max(0.0, end - time.monotonic()))
                self.processes.wait_for_everyone()
                if not finished:
                    return
                self._finish(name)
                if name in NEEDS["export"]:
                    self._done("export").unlink(missing_ok=True)

    def take_up(self, source: ModelFolder) -> None:
        """Lets a finished model stand for the stages before ``joint``, which then goes on from it;
        a folder that has begun so goes on where it was.

        Raises FlexEditError if the model has other sizes, or the folder has begun otherwise.
        """
        config = mini.system_config(self.plan.shape, source.config.name)
        if dataclasses.replace(source.config, sampling=config.sampling) != config:
            raise FlexEditError(
                f"{source.path.name} differs from flexedit-mini in more than its weights, so its "
                "training cannot go on from it. Remove --start."
            )
        note, origin = self.folder / "start", str(source.path.resolve())
        begun = note.read_text(encoding="utf-8") if note.is_file() else "nothing"
        if self._done("parts").is_file() and begun != origin:
            raise FlexEditError(
                f"{self.folder} holds a training from {begun}, which --start would not touch. "
                "Choose another --out, or remove --start."
            )
        if self.processes.is_main_process and not self._done("parts").is_file():
            for part in config.sources:
                shutil.copytree(source.part(part), self.model / part, dirs_exist_ok=True)
            tensors = source.all_tensors()
            for stage, parts in TRAINED_BY.items():
                own = {key: value for key, value in tensors.items() if slot_of(key) in parts}
                (self.folder / stage).mkdir(parents=True, exist_ok=True)
                save_file(own, self.folder / stage / WEIGHTS_FILE)
            note.write_text(origin, encoding="utf-8")
            self._write_seed()
            for name in ORDER[ORDER.index("joint") - 1 :: -1]:  # parts last: it says that all is
                self._finish(name)
        self.processes.wait_for_everyone()

    def _check_seed(self) -> None:
        note = self.folder / "seed"
        if self._done("parts").is_file() and note.is_file():  # older folders have no such note
            begun = note.read_text(encoding="utf-8")
            if begun != str(self.seed):
                raise FlexEditError(
                    f"{self.folder} holds a training with seed {begun}, not {self.seed}. "
                    f"Choose another --out, or --seed {begun}."
                )

    def _write_seed(self) -> None:
        (self.folder / "seed").write_text(str(self.seed), encoding="utf-8")

    def _finish(self, name: str) -> None:
        self._done(name).parent.mkdir(parents=True, exist_ok=True)
        self._done(name).touch()

    def _done(self, name: str) -> Path:
        return self.folder / name / "done"

    def _world(self, name: str) -> World:
        # no stage sees another's samples, nor those of another seed
        return World(self.plan.shape.size, seed=ORDER.index(name) + SEED_STRIDE * self.seed)

    def _train(
        self,
        name: str,
        trainee: nn.Module,
        max_seconds: float | None,
        validate: Callable[[int], None] | None = None,
    ) -> Trainer:
        config = dataclasses.replace(self.plan.stages[name].train, seed=self.seed)
        if torch.cuda.is_available():  # a GPU outruns the world's one process
            config = dataclasses.replace(config, num_workers=num_workers())
        trainer = Trainer(trainee, self._world(name), config, self.folder / name, validate)
        trainer.run(max_seconds)
        return trainer

    def _save(self, part: Any, name: str) -> None:
        if self.processes.is_main_process:
            part.save_pretrained(self.model / name)
            make_portable(self.model / name)

    # --- the stages ---

    def parts(self, max_seconds: float | None = None) -> bool:
        if self.processes.is_main_process:
            words = texts(World(self.plan.shape.size), self.plan.num_texts)
            mini.build_parts(self.plan.shape, words, self.model)
            self._write_seed()
        return True

    def vae(self, max_seconds: float | None = None) -> bool:
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(self.model / "vae")
        trainee = VAEPretraining(vae)
        trainer = self._train("vae", trainee, max_seconds)
        if not trainer.finished:
            return False
        with trainer.averaged():
            unseen = World(self.plan.shape.size, seed=VALIDATION_SEED)
            probe = collate([unseen[index] for index in range(256)])
            probe = probe.to(trainer.accelerator.device)
            vae.register_to_config(scaling_factor=trainee.scaling_factor(probe))
            self._save(vae, "vae")
        return True

    def clip(self, max_seconds: float | None = None) -> bool:
        from transformers import AutoTokenizer, CLIPModel

        folder, shape = self.model / "clip", self.plan.shape
        clip = CLIPModel.from_pretrained(folder, attn_implementation="eager")
        preprocess = Preprocess.from_folder(folder, shape.size)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        trainee = CLIPPretraining(clip, tokenizer, preprocess, shape.size // shape.patch)
        if not self._train("clip", trainee, max_seconds).finished:
            return False
        self._save(clip, "clip")
        return True

    def vision(self, max_seconds: float | None = None) -> bool:
        vllm, shape = self._untalkative_vllm(), self.plan.shape
        trainee = VisionPretraining(
            vllm.model.model.vision_tower,
            vllm.preprocess,
            shape.vit_width,
            shape.size // shape.patch,
        )
        if not self._train("vision", trainee, max_seconds).finished:
            return False
        self._save(vllm.model, "vllm")
        return True

    def vllm(self, max_seconds: float | None = None) -> bool:
        vllm = self._untalkative_vllm()
        # frozen, as in LLaVA: the first gradients of an untrained language model would blind it
        vllm.model.model.vision_tower.requires_grad_(False)
        if not self._train("vllm", VLLMPretraining(vllm, self.seed), max_seconds).finished:
            return False
        self._save(vllm.model, "vllm")
        return True

    def _untalkative_vllm(self) -> Any:
        vllm = load_vllm(self.model / "vllm")
        vllm.model.set_attn_implementation("eager")  # SDPA's backward is slow on the CPU
        return vllm.requires_grad_(True)

    def base(self, max_seconds: float | None = None) -> bool:
        config = mini.system_config(self.plan.shape, "instructpix2pix-mea-mini")
        config = config.override({"vllm": None, "bridge": {"type": "clip_text"}})
        return self._system("base", config, max_seconds)

    def align(self, max_seconds: float | None = None) -> bool:
        return self._system("align", mini.system_config(self.plan.shape), max_seconds)

    def joint(self, max_seconds: float | None = None) -> bool:
        start = load_file(self.folder / "align" / WEIGHTS_FILE)
        start |= load_file(self.folder / "base" / WEIGHTS_FILE)  # UNet and MEA
        config = mini.system_config(self.plan.shape)
        return self._system("joint", config, max_seconds, start)

    def _system(
        self,
        name: str,
        config: SystemConfig,
        max_seconds: float | None,
        start: dict[str, Tensor] | None = None,
    ) -> bool:
        system = self.system(name, config)
        if start is not None:
            system.start_from(start)
        grid = PictureGrid(system, self.folder / name / "pictures") if name != "align" else None
        trainer = self._train(name, system, max_seconds, grid)
        with trainer.averaged():
            tensors = {k: v.detach().contiguous() for k, v in system.tensors().items()}
            if self.processes.is_main_process:
                save_file(tensors, self.folder / name / WEIGHTS_FILE)
        return trainer.finished

    def system(self, name: str, config: SystemConfig) -> System:
        """Fresh FlexEdit parts beside the pretrained ones."""
        recipe = self.plan.stages[name].recipe
        assert recipe is not None
        torch.manual_seed(ORDER.index(name) + SEED_STRIDE * self.seed)
        return System(ModelFolder(self.model, config), recipe, len(CLASSES), self.seed)

    def decoder(self, max_seconds: float | None = None) -> bool:
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(self.model / "vae")
        trainer = self._train("decoder", DecoderPretraining(vae), max_seconds)
        if not trainer.finished:
            return False
        with trainer.averaged():
            self._save(vae, "vae")
        return True

    def export(self, max_seconds: float | None = None) -> bool:
        """The model folder to ship: everything in half precision."""
        if not self.processes.is_main_process:
            return True
        tensors = load_file(self.folder / "joint" / WEIGHTS_FILE)
        config = mini.system_config(self.plan.shape)
        export_folder(self.model, self.folder / "flexedit-mini", config, tensors)
        return True


def num_workers() -> int:
    """Loader workers of this process: its share of the cores that it and those beside it may use"""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    share = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(1, share), MAX_WORKERS)


def export_folder(
    parts: Path, target: Path, config: SystemConfig, tensors: dict[str, Tensor]
) -> None:
    """A model folder to use or ship, replacing ``target``: the frozen parts in half precision,
    under names that every version of transformers reads, beside what was trained.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for part in ("vllm", "clip", "vae"):
        shutil.copytree(parts / part, target / part)
        settings = read_config(target / part)
        for file in (target / part).glob("*.safetensors"):
            halved = {portable_name(k, settings): v.half() for k, v in load_file(file).items()}
            save_file(halved, file, metadata={"format": "pt"})
    for file in target.glob("*/config.json"):
        settings = json.loads(file.read_text())
        settings.pop("_name_or_path", None)  # where it was trained is nobody's business
        file.write_text(json.dumps(settings, indent=2) + "\n")
    save_model_folder(target, config, tensors)
    for file in target.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes files that only their owner may read


def texts(world: World, count: int) -> Iterator[str]:
    """What the tokenizers are trained on: everything that is ever said."""
    from .. import prompts

    yield from prompts.POSITIONAL_PARAPHRASES
    for index in range(count):
        sample = world[index]
        yield prompts.prompt(sample.instruction, sample.task, with_subject=True)
        yield sample.caption
        yield sample.reply
        yield describe(torch.from_numpy(sample.classes))
        if index % 4 == 0:
            yield prompts.GENERIC_REPLY


def curve(folder: Path) -> list[dict[str, float]]:
    """The log of one stage: a row per logged step."""
    from .trainer import LOG

    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
