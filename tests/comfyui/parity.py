"""The same weights, noise and conditioning through diffusers and ComfyUI, for test_parity.py.

An error is relative: the largest difference over the largest value.
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import replace
from typing import Any

import inside
from twin import SEED, Model, sample  # first: it makes this process a ComfyUI

# isort: split
import comfy.ops
import torch
from comfy import model_management
from flexedit_pack.flexedit.models.diffusion.conditioning import Branches
from flexedit_pack.nodes.runtime.clip_vision import load_clip_vision, tokens
from flexedit_pack.nodes.runtime.unet import load_unet
from flexedit_pack.nodes.runtime.vae import encode, load_vae
from torch import Tensor

GUIDANCE = {  # edit_cfg and scene_cfg; all but the first let one branch through alone
    "guided": (7.5, 1.5),
    "positive": (1.0, 1.0),
    "scene-only": (0.0, 1.0),
    "negative": (0.0, 0.0),
}


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def compare(path: str, size: str = "16", batch: str = "1") -> dict[str, dict[str, float]]:
    """Errors after 10 and 20 steps, with and without subject, of all branches joined and alone;
    and how far each run lies from the first one: what is not felt cannot be tested.
    """
    model = Model(path, int(size), int(batch))
    runs = {
        f"{guidance}, λ {strength:g}, {steps} steps": (strength, (steps, *GUIDANCE[guidance]))
        for steps in (10, 20)
        for strength in (0.0, 1.0)
        for guidance in (GUIDANCE if steps == 10 else ["guided"])
    }
    wanted = {name: model.diffusers(model.branches(λ), *rest) for name, (λ, rest) in runs.items()}
    found = {name: model.comfyui(model.branches(λ), *rest) for name, (λ, rest) in runs.items()}
    first = next(iter(wanted.values()))
    return {
        "errors": {name: error(found[name], wanted[name]) for name in runs},
        "felt": {name: error(wanted[name], first) for name in list(runs)[1:]},
    }


def wait_for_files(path: str) -> dict[str, float] | None:
    """Errors of parts whose layers had no weights before their file was read, as ComfyUI has them
    with dynamic VRAM, against the same parts without; None if this ComfyUI has no dynamic VRAM.
    """
    try:
        from comfy import memory_management
    except ImportError:
        return None
    pictures = torch.rand((1, 3, 40, 40), generator=torch.Generator().manual_seed(SEED))
    found = []
    for waits in (False, True):
        memory_management.aimdo_enabled = waits  # no GPU is needed to build layers so
        assert (comfy.ops.manual_cast.Linear(2, 2).weight is None) == waits
        model = Model(path)
        model.patcher = load_unet(model.folder, model.mea, "fp32")
        seeing, vae = load_clip_vision(model.folder, "fp32"), load_vae(model.folder, "fp32")
        assert seeing.model is not None and vae.first_stage_model is not None  # they are read
        if waits:  # what dynamic VRAM computes in
            (dtype,) = {
                layer.weight_comfy_model_dtype
                for layer in seeing.model.modules()
                if hasattr(layer, "weight_comfy_model_dtype")
            }
            assert dtype == torch.float32
        memory_management.aimdo_enabled = False
        latent = model.comfyui(model.branches(), 4, *GUIDANCE["guided"])
        seen = tokens(seeing, pictures, width=model.config.adapter.clip_width).projected
        found.append({"unet": latent, "clip_vision": seen, "vae": encode(vae, pictures)})
    at_once, late = found
    return {name: error(late[name], at_once[name]) for name in at_once}


def without_room(path: str) -> dict[str, Any]:
    """Whether a run is the same, bit for bit, where no weight stays on the device (--novram), and
    how many bytes stayed there. A CPU passes for that device: for it ComfyUI ignores the flag.
    """
    found, stayed = [], []
    for state in (model_management.VRAMState.NORMAL_VRAM, model_management.VRAMState.NO_VRAM):
        model = Model(path)
        model_management.vram_state = state
        model_management.is_device_cpu = lambda device: False
        found.append(model.comfyui(model.branches(), 4, *GUIDANCE["guided"]))
        stayed.append(model.patcher.loaded_size())
    return {"same": torch.equal(*found), "stayed": stayed}


def compare_once(*paths: str) -> dict[str, float]:
    """Errors after 10 guided steps with a subject, for each of several models."""
    errors = {}
    for path in paths:
        model = Model(path, batch=2)
        branches = model.branches([1.0, 0.5])
        run = (10, *GUIDANCE["guided"])
        wanted, found = model.diffusers(branches, *run), model.comfyui(branches, *run)
        errors[os.path.basename(path)] = error(found, wanted)
    return errors


def hits(path: str) -> dict[str, int]:
    """How many different layers attend to the subject in a step, by λ."""
    model = Model(path)
    model.patcher = load_unet(model.folder, model.mea, "fp32")
    return count_hits(model)


def full_size(path: str) -> dict[str, Any]:
    """A UNet of SD1.5's shape: what opening it costs, which layers are hit, and the errors of a
    batch of two after 10 and 20 steps, the first without a subject; and how much BIM's residual
    changes.
    """
    model = Model(path, size=8, batch=2)
    before = resident_memory()
    model.patcher = load_unet(model.folder, model.mea, "fp32")
    opened = resident_memory() - before
    branches = model.branches([0.0, 1.0])
    found = [model.comfyui(branches, steps, *GUIDANCE["guided"]) for steps in (10, 20)]
    hits = count_hits(model)
    del model.patcher
    wanted = [model.diffusers(branches, steps, *GUIDANCE["guided"]) for steps in (10, 20)]
    bare = Branches(*(replace(branch, residual=None) for branch in branches), branches.extra)
    few = [model.diffusers(one, 2, *GUIDANCE["guided"]) for one in (bare, branches)]
    return {
        "residual_felt": error(*few),
        "opened_mb": opened / 2**20,
        "hits": hits,
        "errors": [
            error(found[run][row], wanted[run][row]) for run in range(2) for row in range(2)
        ],
    }


def resident_memory() -> int:
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def count_hits(model: Model) -> dict[str, int]:
    """How many different layers attend to the subject in a step, by λ."""
    from flexedit_pack.nodes.runtime import subject

    hits = {}
    original = subject.SubjectPatch.__call__
    for strength in (0.0, 1.0):
        seen = set()

        def call(
            patch: Any, q: Tensor, k: Tensor, v: Tensor, options: Any, seen: Any = seen
        ) -> Tensor:
            seen.add((*options["block"], options["block_index"]))
            return original(patch, q, k, v, options)

        subject.SubjectPatch.__call__ = call
        try:
            sample(model.patcher, model.branches(strength), model.shape, steps=1)
        finally:
            subject.SubjectPatch.__call__ = original
        hits[f"{strength:g}"] = len(seen)
    return hits


if __name__ == "__main__":
    inside.main(
        {
            f.__name__: f
            for f in (compare, compare_once, full_size, hits, wait_for_files, without_room)
        },
        sys.argv[1:],
    )
