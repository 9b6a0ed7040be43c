"""Sampling with three branches: towards the scene, then towards the edit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...flexedit.errors import FlexEditError
from ...flexedit.models.diffusion import sampling
from .conditioning import Packed
from .interrupt import step_callback

Conds = list[dict[str, Any]] | None  # a branch, as ComfyUI's samplers have it
LATENT_PIXELS = 2**15  # of all rows of a call: eight latents of Stable Diffusion 1
BATCHED = {"control", "gligen", "hooks"}  # what ComfyUI lays over a whole batch


class FlexEditGuider(comfy.samplers.CFGGuider):
    """Positive, scene-only and negative in one call of the UNet, joined as InstructPix2Pix does."""

    def set_conds(self, positive: Packed, scene_only: Packed, negative: Packed) -> None:
        conds = {"positive": positive, "scene_only": scene_only, "negative": negative}
        self.inner_set_conds(conds)

    def set_cfg(self, edit_cfg: float, scene_cfg: float) -> None:
        self.edit_cfg, self.scene_cfg = edit_cfg, scene_cfg

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's own signature
        seed: int | None = None,
    ) -> Tensor:
        """→ the guided x0, as ComfyUI's guiders give it; a branch that cancels out is not run."""
        branches = [self.conds["positive"], self.conds["scene_only"], self.conds["negative"]]
        if not model_options.get("disable_cfg1_optimization", False):
            if math.isclose(self.edit_cfg, self.scene_cfg):
                branches[1] = None
            if math.isclose(self.scene_cfg, 1.0):
                branches[2] = None
        denoised = self._by_parts(branches, x, timestep, model_options)
        guided = sampling.guide(*denoised, self.edit_cfg, self.scene_cfg)
        for adjust in model_options.get("sampler_post_cfg_function", []):
            guided = adjust(
                {
                    "denoised": guided,
                    "cond": branches[0],
                    "uncond": branches[2],
                    "cond_scale": self.edit_cfg,
                    "model": self.inner_model,
                    "cond_denoised": denoised[0],
                    "uncond_denoised": denoised[2],
                    "sigma": timestep,
                    "model_options": model_options,
                    "input": x,
                }
            )
        return guided

    def _by_parts(
        self, branches: Sequence[Conds], x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> list[Tensor]:
        """`calc_cond_batch` of so many rows at a time that a long batch takes no more memory than a
        short one; between them it can be cancelled, and the node's progress goes on.
        """
        batch, area = len(x), x.shape[-1] * x.shape[-2]
        step = max(1, LATENT_PIXELS // area)
        conds = [cond for branch in branches for cond in branch or ()]
        if step >= batch or any(BATCHED & cond.keys() for cond in conds):
            return comfy.samplers.calc_cond_batch(
                self.inner_model, branches, x, timestep, model_options
            )
        parts = []
        for first in range(0, batch, step):
            rows = slice(first, min(first + step, batch))
            some = [_rows_of(branch, rows, batch) for branch in branches]
            parts.append(
                comfy.samplers.calc_cond_batch(
                    self.inner_model, some, x[rows], timestep[rows], model_options
                )
            )
            self.on_part(rows.stop / batch)
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    def on_part(self, share: float) -> None:
        """Called when a share of a step is done."""


def _rows_of(branch: Conds, rows: slice, batch: int) -> Conds:
    """A branch for some rows of the batch; as ComfyUI does, fewer are repeated: 0 1 0 1."""

    def chosen(tensor: Tensor) -> Tensor:
        return comfy.utils.repeat_to_batch_size(tensor, batch)[rows]

    if branch is None:
        return None
    some = []
    for cond in branch:
        model_conds = {
            name: one._copy_with(chosen(one.cond)) if isinstance(one.cond, Tensor) else one
            for name, one in cond["model_conds"].items()
        }
        masked = {"mask": chosen(cond["mask"])} if "mask" in cond else {}
        some.append({**cond, **masked, "model_conds": model_conds})
    return some


def sample(
    model: ModelPatcher,
    positive: Packed,
    scene_only: Packed,
    negative: Packed,
    latent: dict[str, Any],
    *,
    seed: int,
    steps: int,
    edit_cfg: float,
    scene_cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float,
) -> Tensor:
    """One run → unscaled latents (B, C, h, w) on the CPU. Reports progress; can be cancelled."""
    check_pairing(model, positive, latent["samples"])
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    settings = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
    )
    guider = FlexEditGuider(model)
    guider.set_conds(positive, scene_only, negative)
    guider.set_cfg(edit_cfg, scene_cfg)
    noise_mask = latent.get("noise_mask")
    if denoise >= 1.0:
        samples = without_edited(samples, noise_mask)
    num_steps = len(settings.sigmas) - 1
    show, progress = latent_preview.prepare_callback(model, num_steps), step_callback(num_steps)
    done = 0

    def on_step(step: int, *shown: Any) -> None:
        nonlocal done
        done = step + 1
        show(step, *shown)

    guider.on_part = lambda share: progress(min(done + share, num_steps))
    result = guider.sample(
        noise,
        samples,
        comfy.samplers.sampler_object(sampler_name),
        settings.sigmas,
        denoise_mask=noise_mask,
        callback=on_step,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return result.to("cpu")


def without_edited(samples: Tensor, noise_mask: Tensor | None) -> Tensor:
    """Zeros where all may change, so that sampling starts from pure noise there.

    ComfyUI adds the latent to the noise, and at the highest sigma some of it would still show.
    """
    if noise_mask is None:
        return torch.zeros_like(samples)
    mask = comfy.sampler_helpers.prepare_mask(noise_mask, samples.shape, samples.device)
    return samples.masked_fill(mask == 1, 0.0)


def check_pairing(model: ModelPatcher, positive: Packed, samples: Tensor) -> None:
    """Says in words what would otherwise fail as a matrix product inside the UNet."""
    config = getattr(getattr(model.model, "model_config", None), "unet_config", {})
    reads, makes = config.get("in_channels"), config.get("out_channels")
    if makes is None or reads != 2 * makes:
        raise FlexEditError(
            f"This model reads {reads} channels and makes {makes}; FlexEdit samples a UNet that "
            "reads twice what it makes, the noise beside the scene. "
            "Connect the model output of FlexEdit Loader."
        )
    width = positive[0][0].shape[-1]
    if config.get("context_dim") != width:
        raise FlexEditError(
            f"The conditioning is {width} wide, but this model reads {config.get('context_dim')}. "
            "Take the model and the MEA from the same FlexEdit Loader."
        )
    if samples.shape[1] != makes and samples.any():
        raise FlexEditError(
            f"The latent has {samples.shape[1]} channels, but this model makes {makes}. "
            "Encode the scene with the VAE of the same FlexEdit Loader."
        )
