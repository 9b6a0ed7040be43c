"""From noise to a latent: the schedule, the guidance and the deterministic Euler sampler.

Timesteps are ComfyUI's scheduler ``simple`` (diffusers: "trailing"), so both give one picture.
B batch, C × h × w a latent
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from ...errors import FlexEditError
from ...validation import STRICT

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, EulerDiscreteScheduler

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, config=STRICT)
class DiffusionConfig:
    """The noise schedule and what the UNet predicts, in the words of diffusers' schedulers."""

    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise FlexEditError(
                f"beta_start is {self.beta_start} and beta_end {self.beta_end}; choose numbers "
                "between 0 and 1, the second not below the first."
            )


def schedule(config: DiffusionConfig) -> EulerDiscreteScheduler:
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(**asdict(config), timestep_spacing="trailing")


def training_schedule(config: DiffusionConfig) -> DDPMScheduler:
    """The forward process: ``add_noise`` gives z_t, ``get_velocity`` the v target."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**asdict(config))


def timesteps(num_steps: int, num_train_timesteps: int = 1000) -> list[int]:
    """``num_steps`` timesteps, from the noisiest down, evenly spaced."""
    if not 1 <= num_steps <= num_train_timesteps:
        raise FlexEditError(f"steps is {num_steps}; choose 1 to {num_train_timesteps}.")
    spacing = num_train_timesteps / num_steps
    return [num_train_timesteps - 1 - int(index * spacing) for index in range(num_steps)]


def guide(
    positive: Tensor, scene_only: Tensor, negative: Tensor, edit_cfg: float, scene_cfg: float
) -> Tensor:
    """InstructPix2Pix's two scales (its eq. 3): towards the scene, then towards the edit."""
    return negative + scene_cfg * (scene_only - negative) + edit_cfg * (positive - scene_only)


def noise(shape: tuple[int, ...], seed: int | Sequence[int]) -> Tensor:
    """Standard normal noise on the CPU: the same for a seed on every machine, and in ComfyUI.

    Seeds (one per row) make each row what it would be alone, whatever batch it is in.
    """
    if not isinstance(seed, int):
        if len(seed) != shape[0]:
            raise FlexEditError(
                f"There are {len(seed)} seeds for {shape[0]} pictures. Give one, or one for each."
            )
        return torch.cat([noise((1, *shape[1:]), one) for one in seed])
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


@torch.no_grad()
def sample(
    predict: Predict,
    start: Tensor,
    config: DiffusionConfig,
    num_steps: int,
    edit_cfg: float,
    scene_cfg: float,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Integrates the probability-flow ODE from noise ``start`` (B, C, h, w) to a scaled latent.

    ``predict(z_t, timestep)`` gives the model's output for positive, scene-only and negative.
    ``on_step(done, total)`` reports progress; what it raises ends the run.
    """
    scheduler = schedule(config)
    scheduler.set_timesteps(timesteps=timesteps(num_steps, config.num_train_timesteps))
    latent = start * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    for index, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latent, timestep)
        output = guide(*predict(scaled, timestep), edit_cfg, scene_cfg)
        latent = scheduler.step(output, timestep, latent).prev_sample
        if on_step is not None:
            on_step(index + 1, num_steps)
    return latent
