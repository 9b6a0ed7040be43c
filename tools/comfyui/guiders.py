"""Our sampler beside ComfyUI's own guider, inside one ComfyUI, for tools.speed."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import inside
from twin import SEED, Model  # first: it makes this process a ComfyUI

# isort: split
import comfy.samplers
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from flexedit_pack.nodes.runtime import conditioning, guider
from flexedit_pack.nodes.runtime.unet import load_unet


def guiders(
    path: str, strength: str, tokens: str, size: str, steps: str, pairs: str
) -> dict[str, Any]:
    """Seconds of interleaved runs of both guiders on one UNet, three evaluations a step each.

    ComfyUI's runs on the UNet without our layers, and with none of our conditioning.
    """
    model = Model(path, size=int(size))
    branches = model.branches(float(strength), int(tokens))
    ours = load_unet(model.folder, model.mea, "fp32")
    plain = ours.clone()
    plain.wrappers.clear()
    plain.additional_models.clear()
    positive, scene_only, negative = conditioning.pack(branches)
    latent = torch.zeros(model.shape)
    noise = torch.randn(model.shape, generator=torch.Generator().manual_seed(SEED))
    euler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(
        ours.get_model_object("model_sampling"), "simple", int(steps)
    )

    def flexedit() -> None:
        run = guider.FlexEditGuider(ours)
        run.set_conds(positive, scene_only, negative)
        run.set_cfg(7.5, 1.5)
        run.sample(noise, latent, euler, sigmas, disable_pbar=True, seed=SEED)

    def comfyui() -> None:
        run = Guider_DualCFG(plain)
        run.set_conds(*map(bare, (positive, scene_only, negative)))
        run.set_cfg(7.5, 1.5)
        run.sample(noise, latent, euler, sigmas, disable_pbar=True, seed=SEED)

    return compare(flexedit, comfyui, int(pairs))


def bare(packed: list[list[Any]]) -> list[list[Any]]:
    return [[c, {k: v for k, v in extra.items() if k != "model_conds"}] for c, extra in packed]


def compare(ours: Callable[[], None], theirs: Callable[[], None], pairs: int) -> dict[str, Any]:
    """Times both in turn, in changing order, after a run of each to warm up."""
    ours(), theirs()
    ratios, seconds = [], []
    for pair in range(pairs):
        times = {}
        for run in (ours, theirs) if pair % 2 else (theirs, ours):
            began = time.perf_counter()
            run()
            times[run] = time.perf_counter() - began
        ratios.append(times[ours] / times[theirs])
        seconds.append(times[ours])
    return {
        "pairs": pairs,
        "median_ratio": statistics.median(ratios),
        "ratios": sorted(ratios),
        "median_seconds": statistics.median(seconds),
    }


if __name__ == "__main__":
    inside.main({"guiders": guiders}, sys.argv[1:])
