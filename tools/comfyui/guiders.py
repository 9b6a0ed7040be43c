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

Run = Callable[[Any, Any], None]  # a guider, its three conditionings


def guiders(
    path: str, strength: str, tokens: str, size: str, steps: str, pairs: str
) -> dict[str, Any]:
    """Seconds of interleaved runs of both guiders on one UNet, three evaluations a step each.

    ComfyUI's runs on the UNet without our layers, and with none of our conditioning.
    """
    model, ours, plain, sample = prepared(path, size, steps)
    packed = conditioning.pack(model.branches(float(strength), int(tokens)))
    without = [bare(one) for one in packed]
    return compare(
        lambda: sample(guider.FlexEditGuider(ours), packed),
        lambda: sample(Guider_DualCFG(plain), without),
        int(pairs),
    )


def bim(path: str, size: str, steps: str, pairs: str) -> dict[str, Any]:
    """Our sampler with BIM, its one pass over 16 × 16 patches included, and without."""
    model, ours, plain, sample = prepared(path, size, steps)
    without = [bare(one) for one in conditioning.pack(model.branches(0.0, 257))]
    return compare(
        lambda: sample(guider.FlexEditGuider(ours), conditioning.pack(model.branches(0.0, 257))),
        lambda: sample(guider.FlexEditGuider(plain), without),
        int(pairs),
    )


def instructpix2pix(path: str, size: str, steps: str, pairs: str) -> dict[str, Any]:
    """Our conditionings and sampler beside ComfyUI's own node for InstructPix2Pix and its guider;
    the scene is encoded beforehand for both.
    """
    from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

    model, ours, plain, sample = prepared(path, size, steps)
    branches = model.branches(0.0, 1)
    text, null = branches.positive.f1, branches.negative.f1
    pixels = torch.zeros(1, 8 * int(size), 8 * int(size), 3)

    class Encoded:
        def encode(self, _: Any) -> torch.Tensor:
            return branches.positive.scene_latent

    def comfyui() -> None:
        found = InstructPixToPixConditioning.execute([[text, {}]], [[null, {}]], pixels, Encoded())
        positive, scene_only, _ = found.args
        sample(Guider_DualCFG(plain), (positive, scene_only, [[null, {}]]))

    return compare(
        lambda: sample(guider.FlexEditGuider(ours), conditioning.pack(branches)),
        comfyui,
        int(pairs),
    )


def prepared(path: str, size: str, steps: str) -> tuple[Model, Any, Any, Run]:
    """A model, its UNet, the same without our layers, and what samples by a guider."""
    model = Model(path, size=int(size))
    ours = load_unet(model.folder, model.mea, "fp32")
    plain = ours.clone()
    plain.wrappers.clear()
    plain.additional_models.clear()
    latent = torch.zeros(model.shape)
    noise = torch.randn(model.shape, generator=torch.Generator().manual_seed(SEED))
    euler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(
        ours.get_model_object("model_sampling"), "simple", int(steps)
    )

    def sample(run: Any, conditionings: Any) -> None:
        run.set_conds(*conditionings)
        run.set_cfg(7.5, 1.5)
        run.sample(noise, latent, euler, sigmas, disable_pbar=True, seed=SEED)

    return model, ours, plain, sample


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
    inside.main({f.__name__: f for f in (guiders, bim, instructpix2pix)}, sys.argv[1:])
