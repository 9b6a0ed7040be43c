"""All that is random in a step of training, and what a stage's recipe makes of it.

B batch, K noises of one row, C × h × w a latent
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from torch import Tensor

from .. import prompts
from ..errors import FlexEditError
from ..model_folder.keys import PARTS
from ..models.config import SystemConfig
from ..models.parts import Slot

DROPPED = ("drop_edit", "drop_scene", "drop_scene_alone")  # shares of all rows, apart
SHARES = (*DROPPED, "generic_reply")
WEIGHTS = (
    "reply", "diffusion", "align", "region", "perceptual", "perceptual_from",
    "helper_classes", "helper_result", "helper_mask",
)  # fmt: skip


@dataclass(frozen=True)
class Losses:
    """What a stage trains, and how much each loss counts.

    noises is K: on how many noises and timesteps a row is scored; what comes before the UNet is
    computed once for all of them. ``shift`` moves timesteps to high noise, where it is decided what
    is drawn (1: they are uniform). ``perceptual``, from the step ``perceptual_from`` on, weighs how
    far the picture that a row's first prediction decodes to is from the truth as CLIP sees them.
    ``own`` weighs the losses that parts have of their own, by name (others: 1). ``text`` is what a
    system without a VLLM reads: words that name everything, or those that a person said. ``region``
    weighs latent pixels in and around the edited region (others: 1). The helpers are for training
    only: read off the UNet's last features, the classes of scene and result and the mask of what is
    meant teach it what it looks at and what it has to draw; the saved model has no such head.
    """

    stage: Literal["align", "joint"]
    parts: tuple[Slot, ...]
    drop_edit: float = 0.05  # guidance dropout: the scene-only branch
    drop_scene: float = 0.05  # guidance dropout: the negative branch
    drop_scene_alone: float = 0.0  # the edit without the scene, which sampling never asks for
    noises: int = 1
    text: Literal["caption", "instruction"] = "caption"
    generic_reply: float = 0.5  # how many edits are answered with the reply ``direct`` forces
    reply: float = 1.0
    diffusion: float = 1.0
    align: float = 1.0
    region: float = 1.0
    shift: float = 1.0
    perceptual: float = 0.0
    perceptual_from: int = 0
    own: dict[str, float] = field(default_factory=dict)
    helper_classes: float = 0.0
    helper_result: float = 0.0
    helper_mask: float = 0.0

    def __post_init__(self) -> None:
        if self.noises < 1:
            raise FlexEditError(f"noises is {self.noises}; choose 1 or more.")
        if not 0 < self.shift < math.inf:
            raise FlexEditError(f"shift is {self.shift}; choose a number above 0.")
        for name in WEIGHTS:
            if not 0 <= (weight := getattr(self, name)) < math.inf:
                raise FlexEditError(f"{name} is {weight}; choose 0 or more.")
        for name, weight in self.own.items():
            if not 0 <= weight < math.inf:
                raise FlexEditError(f"own.{name} is {weight}; choose 0 or more.")
        shares = {name: getattr(self, name) for name in SHARES}
        if bad := [name for name, share in shares.items() if not 0 <= share <= 1]:
            raise FlexEditError(f"{bad[0]} is {shares[bad[0]]}; choose a share from 0 to 1.")
        if (dropped := round(sum(shares[name] for name in DROPPED), 9)) > 1:
            raise FlexEditError(
                f"{', '.join(DROPPED)} are shares of all rows, but make {dropped:g}; choose "
                "smaller ones."
            )

    def check(self, config: SystemConfig) -> None:
        """Raises FlexEditError for losses that a system has not."""
        parts = {slot: getattr(config, slot) for slot in PARTS}
        own = [
            name
            for slot, part in parts.items()
            for name in (PARTS[slot][part.type].own_losses if part else ())
        ]
        if unknown := sorted(set(self.own) - set(own)):
            raise FlexEditError(
                f"losses.own names {', '.join(unknown)}, but parts of {config.name} have "
                f"{'the losses ' + ', '.join(own) if own else 'no losses of their own'}."
            )
        if self.perceptual and not config.looks:
            raise FlexEditError(
                f"losses.perceptual asks what CLIP sees, and {config.name} has no CLIP that looks. "
                "Set it to 0."
            )


@dataclass(frozen=True)
class Draw:
    """All that is random in one step, drawn for the global batch so that processes agree.

    noise (B, K, C, h, w) · timesteps, branch (B, K); 0 positive, 1 scene-only,
    2 negative, 3 the edit without the scene ·
    generic (B,): which edits are answered with the generic reply · positional (B,): which phrase
    """

    noise: Tensor
    timesteps: Tensor
    branch: Tensor
    generic: Tensor
    positional: Tensor

    @classmethod
    def make(
        cls,
        seed: int,
        step: int,
        shape: tuple[int, ...],
        recipe: Losses,
        num_train_timesteps: int = 1000,
    ) -> Draw:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        batch, *latent = shape
        noises = (batch, recipe.noises)
        choice = torch.rand(noises, generator=generator)
        branch = torch.zeros(noises, dtype=torch.long)
        for number, share in (
            (3, recipe.drop_scene + recipe.drop_edit + recipe.drop_scene_alone),
            (1, recipe.drop_scene + recipe.drop_edit),
            (2, recipe.drop_scene),
        ):
            branch[choice < share] = number
        return cls(
            noise=torch.randn((*noises, *latent), generator=generator),
            timesteps=shifted(
                torch.randint(num_train_timesteps, noises, generator=generator),
                recipe.shift,
                num_train_timesteps,
            ),
            branch=branch,
            generic=torch.rand(batch, generator=generator) < recipe.generic_reply,
            positional=torch.randint(
                len(prompts.POSITIONAL_PARAPHRASES), (batch,), generator=generator
            ),
        )

    @property
    def phrases(self) -> list[str]:
        return [prompts.POSITIONAL_PARAPHRASES[index] for index in self.positional.tolist()]

    def rows(self, start: int, stop: int) -> Draw:
        return Draw(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def to(self, device: torch.device) -> Draw:
        return Draw(*(getattr(self, field.name).to(device) for field in fields(self)))


def shifted(timesteps: Tensor, shift: float, num_train_timesteps: int) -> Tensor:
    """Uniform timesteps → as many, moved to high noise: t' = s·t / (1 + (s − 1)·t), t in 0..1
    (Stable Diffusion 3, arXiv 2403.03206, eq. 23).
    """
    if shift == 1.0:
        return timesteps
    share = (timesteps + 0.5) / num_train_timesteps
    return (shift * share / (1 + (shift - 1) * share) * num_train_timesteps).long()
