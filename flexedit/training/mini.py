"""From nothing to ``flexedit-mini`` in ten stages, each resumable, by one command.

``parts`` to ``vllm`` make what others download. ``base`` trains UNet and MEA on CLIP's text
embedding of captions that name everything (what Stable Diffusion is to FlexEdit). ``align`` is the
paper's stage 1: the Q-Former learns to say by the VLLM's hidden states what CLIP's text encoder
says by the caption. ``joint`` is stage 2: L = L_VLLM + L_diffusion, all of FlexEdit's parts
together, starting from both. ``decoder`` lets the VAE's decoder forgive what a UNet gets wrong.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..data.world import World
from ..data.world.assets import CLASSES
from ..errors import FlexEditError
from ..model_folder import WEIGHTS_FILE, ModelFolder
from ..model_folder.keys import slot_of
from ..model_folder.weights import make_portable
from ..models.config import SystemConfig
from ..models.diffusion.unet import FlexEditUNet
from .pretrain.clip import load_clip
from .pretrain.decoder import load_decoder
from .pretrain.parts import build_parts, build_vae, is_vae_of, texts
from .pretrain.shape import system_config
from .pretrain.vae import load_vae
from .pretrain.vision import load_vision
from .pretrain.vllm import load_vllm
from .preview import VALIDATION_SEED, PictureGrid
from .recipe import MiniRecipe, mini_recipe
from .run import Stage, Training

ORDER = (
    "parts", "vae", "clip", "vision", "vllm", "base", "align", "joint", "decoder", "export",
)  # fmt: skip
SEED_STRIDE = 10_000  # beyond the seeds of stages, validation and ablation
SEED, START, DONE = "seed", "start", "done"  # notes: of the folder, and of each finished stage
TRAINED_BY = {"base": ("unet", "adapter"), "align": ("bridge", "vllm")}  # what `joint` starts from


class MiniTraining(Training):
    """One training of a mini in ``folder``; ``folder/model`` grows from stage to stage.

    Another ``seed`` trains on other samples and into another folder; the noise is by the recipe's.
    """

    def __init__(self, folder: Path, recipe: MiniRecipe | None = None, seed: int = 0) -> None:
        recipe = recipe or mini_recipe(seed=seed)
        super().__init__(folder, recipe.stages, {SEED: str(seed)})
        self.seed, self.model, self.shape = seed, folder / "model", recipe.shape
        self.num_texts, self.config = recipe.num_texts, system_config(recipe.shape)
        self.world = partial(
            World, recipe.shape.size, framing=recipe.framing, operations=recipe.operations
        )
        for stage in recipe.stages.values():
            stage.check(self.config)
        pretrain, unseen = self.pretrain, self.world(seed=VALIDATION_SEED)
        self.stages = (
            Stage("parts", self.build_parts),
            Stage(
                "vae", partial(pretrain, "vae", "vae", partial(load_vae, unseen=unseen)), ("parts",)
            ),
            Stage("clip", self.clip, ("parts",)),
            Stage("vision", partial(pretrain, "vision", "vllm", load_vision), ("parts",)),
            Stage(
                "vllm",
                partial(pretrain, "vllm", "vllm", partial(load_vllm, seed=seed)),
                ("vision",),
            ),
            Stage("base", self.base, ("vae", "clip")),
            Stage("align", self.align, ("clip", "vllm")),
            Stage("joint", self.joint, ("base", "align")),
            Stage("decoder", partial(pretrain, "decoder", "vae", load_decoder), ("vae",)),
            Stage("export", self.ship, ("joint", "decoder")),
        )

    def check_folder(self) -> None:
        seed = self.note(SEED)
        if seed not in (None, self.notes[SEED]):  # older folders have no such note
            raise FlexEditError(
                f"{self.folder} holds a training with seed {seed}, not {self.seed}. "
                f"Choose another --out, or --seed {seed}."
            )

    def is_done(self, name: str) -> bool:
        return self.mark(name).is_file()

    def finish(self, name: str) -> None:
        self.mark(name).parent.mkdir(parents=True, exist_ok=True)
        self.mark(name).touch()
        if name in self.stages[-1].needs:  # what was exported is no longer the latest
            self.mark("export").unlink(missing_ok=True)

    def mark(self, name: str) -> Path:
        return self.folder / name / DONE

    def stage_seed(self, name: str) -> int:
        """No stage sees another's samples, nor those of another seed."""
        return ORDER.index(name) + SEED_STRIDE * self.seed

    def samples(self, name: str) -> World:
        return self.world(seed=self.stage_seed(name))

    # --- the stages ---

    def build_parts(self) -> bool:
        if self.writes:
            words = texts(self.world(), self.num_texts)
            build_parts(self.shape, words, self.model)
        return True

    def pretrain(self, name: str, part: str, load: Callable[..., tuple[Any, Any]]) -> bool:
        """Reads a part with what trains it, trains it and puts it back."""
        module, trainee = load(self.model / part, self.shape)
        trainer = self.fit(name, trainee)
        if trainer.finished and self.writes:
            with trainer.averaged():
                trainee.complete()
                module.save_pretrained(self.model / part)
                make_portable(self.model / part)
        return trainer.finished

    def clip(self) -> bool:
        """From a finished model its text tower stays: UNet and Q-Former speak its language."""
        keeps_text = self.note(START) is not None
        return self.pretrain("clip", "clip", partial(load_clip, keeps_text=keeps_text))

    def base(self) -> bool:
        config = system_config(self.shape, "instructpix2pix-mea-mini")
        config = config.override({"vllm": None, "bridge": {"type": "clip_text"}})
        return self.train_system("base", config)

    def align(self) -> bool:
        return self.train_system("align", self.config, is_shown=False)

    def joint(self) -> bool:
        start = self.handed_on("align") | self.handed_on("base")  # whose UNet and MEA are trained
        return self.train_system("joint", self.config, start)

    def train_system(
        self,
        name: str,
        config: SystemConfig,
        start: Mapping[str, Tensor] | None = None,
        is_shown: bool = True,
    ) -> bool:
        model, seed = ModelFolder(self.model, config), self.stage_seed(name)
        system = self.system(name, model, start, first_seed=seed, num_classes=len(CLASSES))
        grid = None
        if is_shown:
            unseen = self.world(seed=VALIDATION_SEED)
            pictures = self.folder / name / "pictures"
            grid = PictureGrid(system, pictures, unseen, writes=self.writes)
        return self.fit_system(name, system, grid)

    def ship(self) -> bool:
        model = ModelFolder(self.model, self.config)
        return self.export("joint", model, self.folder / "flexedit-mini", halves_parts=True)

    # --- another start ---

    def start_from(self, source: ModelFolder, anew: Sequence[str] = ()) -> None:
        """Lets a finished model stand for the stages before ``joint``, which then goes on from it,
        but for those in ``anew``: ``base`` and ``align`` are run from nothing, the others train its
        parts on. A folder that has begun so goes on where it was.

        With ``vae`` in ``anew``, the VAE may have other widths, latents other channels and noise:
        then it learns from nothing, and the UNet's first and last convolutions begin untrained.

        Raises FlexEditError if the model has other sizes, or the folder has begun otherwise.
        """
        config, wanted = source.config, system_config(self.shape, source.config.name)
        if "vae" in anew:
            channels = {name: wanted.unet[name] for name in ("in_channels", "out_channels")}
            config = dataclasses.replace(
                config, unet=config.unet | channels, diffusion=wanted.diffusion
            )
        has_vae = "vae" in anew or is_vae_of(self.shape, source.part("vae"))
        if dataclasses.replace(config, sampling=wanted.sampling) != wanted or not has_vae:
            raise FlexEditError(
                f"{source.path.name} differs from flexedit-mini in more than its weights, so its "
                "training cannot go on from it. Remove --start, or if it is the VAE alone that "
                "differs, name vae in --stages."
            )
        start, begun_from = str(source.path.resolve()), self.note(START) or "nothing"
        if self.is_done("parts"):
            if begun_from != start:
                raise FlexEditError(
                    f"{self.folder} holds a training from {begun_from}, which --start would not "
                    "touch. Choose another --out, or remove --start."
                )
            return
        self.claim()
        if self.writes:
            self.copy_model(source, wanted)
            (self.folder / START).write_text(start, encoding="utf-8")
            for name in ORDER[ORDER.index("joint") - 1 :: -1]:  # parts last: it says that all is
                if name not in anew:
                    self.finish(name)
        self.processes.wait_for_everyone()

    def copy_model(self, source: ModelFolder, config: SystemConfig) -> None:
        for part in config.sources:
            shutil.copytree(source.part(part), self.model / part, dirs_exist_ok=True)
        torch.manual_seed(self.stage_seed("parts"))
        if not is_vae_of(self.shape, self.model / "vae"):
            shutil.rmtree(self.model / "vae")
            build_vae(self.shape, self.model / "vae")
        unet = FlexEditUNet(config.unet).checkpoint()
        tensors = {
            key: unet[key] if key in unet and unet[key].shape != tensor.shape else tensor
            for key, tensor in source.all_tensors().items()
        }
        for stage, parts in TRAINED_BY.items():
            trained = {key: value for key, value in tensors.items() if slot_of(key) in parts}
            (self.folder / stage).mkdir(parents=True, exist_ok=True)
            save_file(trained, self.folder / stage / WEIGHTS_FILE)
