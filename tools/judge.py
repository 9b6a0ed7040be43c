"""Trains the judge of FSMI-Edit and measures how often it is right on held-out scenes.

python -m tools.judge      writes the shipped files

Its optimizer comes with the extra `training`.

B batch, S the side of a crop in pixels, H × W a picture
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from flexedit.benchmark.judge import (
    ANSWERS,
    CONTEXT,
    FOLDER,
    SIDE,
    SURE,
    UNCLEAR,
    Judge,
    Network,
    Window,
    crop,
    crops_of,
    window_around,
)
from flexedit.data.sample import Sample
from flexedit.data.world import World
from flexedit.data.world.assets import CLASSES
from flexedit.errors import FlexEditError
from flexedit.prompts import BACKGROUND
from flexedit.training.optimizer import build_optimizer
from flexedit.training.precision import fast_dtype

OPERATIONS = {"add": 1.0, "insert": 1.0, "replace": 1.0, "swap": 1.5, "remove": 2.5}
TRAIN_SEED, TEST_SEED = 77_000, 77_001
STEPS, BATCH_SIZE = 8_000, 64
SIZES = (64, 64, 64, 64, 64, 128)  # of the pictures it learns from, in turn
# What is still clear, and what no longer: pixels of a crop that a warp moves by, σ of a blur in
# pixels of a crop, the scene's share where it shines through a truth, and where it should be gone.
UNEVEN, BENT = (0.0, 1.2), (3.0, 6.5)
SMEARED = (3.0, 6.0)
GHOST, GHOST_LEFT = (0.35, 0.7), (0.3, 0.65)
VAE_BLUR = 0.9  # σ in pixels of a 64-pixel picture: loses about what a VAE's round trip loses

log = logging.getLogger(__name__)


def truth_of(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """A sample's truth (H, W, 3) and where it really differs from the scene, (H, W) bool."""
    assert sample.target is not None
    return sample.target, (sample.target != sample.scene).any(-1)


def examples(seed: int) -> Iterator[tuple[Tensor, int]]:
    """Crops and indices of their answers, for ever: of a truth, of its scene that no edit has
    changed, of something else that stands in the scene, and of two edits gone wrong.
    """
    worlds = [World(size, "train", seed, operations=OPERATIONS) for size in SIZES]
    for index in itertools.count():
        sample = worlds[index % len(worlds)][index]
        truth, region = truth_of(sample)
        if not region.any():
            continue
        rng = np.random.default_rng([seed, index])
        seen = [(truth, region, sample.result_label), (sample.scene, region, sample.label)]
        others = [one for one in np.unique(sample.classes)[1:] if CLASSES[one - 1] != sample.label]
        if others:
            other = int(rng.choice(others))
            seen.append((sample.scene, sample.classes == other, CLASSES[other - 1]))
        for picture, where, answer in seen:
            clear = crop(picture, where, random_window(where, rng))
            yield warp(clear, rng.uniform(*UNEVEN), rng), ANSWERS.index(answer)
        for _ in range(2):
            window = random_window(region, rng)
            right, unchanged = crop(truth, region, window), crop(sample.scene, region, window)
            yield spoil(right, unchanged, sample, rng), ANSWERS.index(UNCLEAR)


def random_window(region: np.ndarray, rng: np.random.Generator) -> Window:
    x, y = rng.uniform(-0.06, 0.06, 2)
    return window_around(region, rng.uniform(1.2, 1.7), (x, y))


def spoil(truth: Tensor, scene: Tensor, sample: Sample, rng: np.random.Generator) -> Tensor:
    """A crop (4, S, S) of an edit gone wrong, from those of its truth and its scene.

    Either the two shine through each other, or one ends where the other begins, or the thing that
    is there (in the truth, or in the scene if it was to be removed) is bent, put together wrongly
    or smeared. An addition of which half is there is still clear.
    """
    place = truth[3:]
    removal, addition = sample.result_label == BACKGROUND, sample.label == BACKGROUND
    kind = rng.choice(["ghost", "bent", "pieces", "smear"] + ["half"] * (not addition))
    if kind == "ghost":
        share = torch.tensor(rng.uniform(*(GHOST_LEFT if removal else GHOST)))
    elif kind == "half":
        share = blur(half(place, rng)[None], rng.uniform(0.5, 2.5))[0]
    else:
        bad = scene if removal else truth
        if kind == "bent":
            bad = warp(bad, rng.uniform(*BENT), rng)
        elif kind == "pieces":
            bad = pieces(bad, rng)
        sigma = rng.uniform(*(SMEARED if kind == "smear" else (0.5, 2.0)))
        scene = blur(bad[None], sigma)[0]
        share = (2 * F.max_pool2d(place, 7, 1, 3)).clamp(max=1)  # the place and a bit more
        share = share * rng.uniform(0.6 if removal else 1.0, 1.0)
    return torch.cat([torch.lerp(truth[:3], scene[:3], share), place])


def half(place: Tensor, rng: np.random.Generator) -> Tensor:
    """1 on one side of a line through a region (1, S, S), near its middle, else 0."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    along = np.cos(angle) * x + np.sin(angle) * y
    middle = (along * place[0]).sum() / place[0].sum()
    return (along > middle + rng.uniform(-0.15, 0.15)).float()[None]


def pieces(thing: Tensor, rng: np.random.Generator) -> Tensor:
    """A crop (4, S, S) put together from pieces of itself that were moved and turned."""
    count = int(rng.integers(4, 9))
    turn = rng.uniform(-1.5, 1.5, count)
    matrix = np.empty((count, 2, 3), np.float32)
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(turn)
    matrix[:, 0, 1], matrix[:, 1, 0] = -np.sin(turn), np.sin(turn)
    matrix[:, :, 2] = rng.uniform(-0.5, 0.5, (count, 2))
    grids = F.affine_grid(torch.from_numpy(matrix), [count, 1, SIDE, SIDE], align_corners=False)
    moved = taken(thing[:3].expand(count, -1, -1, -1), grids)
    shares = (6 * smooth_noise(count, int(rng.integers(4, 7)), rng)).softmax(0)
    return torch.cat([(moved * shares[:, None]).sum(0), thing[3:]])


def warp(crop: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """A crop (4, S, S) with each pixel's colours taken from ``amount`` pixels off (root mean
    square of x and of y), smoothly changing from place to place.
    """
    shifts = amount * 2 / SIDE * smooth_noise(2, int(rng.integers(4, 7)), rng)
    still = F.affine_grid(torch.eye(2, 3)[None], [1, 1, SIDE, SIDE], align_corners=False)
    return torch.cat([taken(crop[None, :3], still + shifts.movedim(0, -1))[0], crop[3:]])


def taken(pictures: Tensor, grids: Tensor) -> Tensor:
    return F.grid_sample(pictures, grids, padding_mode="border", align_corners=False)


def smooth_noise(channels: int, cells: int, rng: np.random.Generator) -> Tensor:
    """(C, S, S) of mean square 1; ``cells`` a side are independent of each other."""
    noise = torch.from_numpy(rng.standard_normal((1, channels, cells, cells), np.float32))
    noise = F.interpolate(noise, SIDE, mode="bicubic")[0]
    return noise / noise.square().mean().sqrt()


def soften(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Crops (B, 4, S, S) as a decoder might paint them: blurred (three quarters of them, half of
    those only in and around the region, as by a composite), speckled, in other light.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(crops), 1, 1, 1, generator=generator)

    colors, place = crops[:, :3], crops[:, 3:]
    parts = colors.tensor_split(4)  # a sample's crops lie together, so all kinds get every blur
    soft = torch.cat([parts[0], *(map(blur, parts[1:], (0.6, 1.0, 1.5)))])
    around = (uniform(1, 3) * F.max_pool2d(place, 7, 1, 3)).clamp(max=1)
    colors = torch.lerp(colors, soft, torch.where(uniform(0, 1) < 0.5, around, 1.0))
    stains = F.interpolate(normal(len(crops), 3, 12, 12), SIDE, mode="bilinear")
    colors = colors * (1 + 0.06 * normal(len(crops), 3, 1, 1))
    colors = colors + uniform(0, 0.04) * stains + uniform(0, 0.025) * normal(*colors.shape)
    return torch.cat([colors.clamp(0, 1), place], 1)


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, H, W), borders repeated."""
    radius = int(np.ceil(2.5 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    planes = F.pad(pictures.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(planes, kernel), kernel.mT).view(pictures.shape)


def train(
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = TRAIN_SEED,
    learning_rate: float = 3e-3,
    device: str | None = None,
) -> Network:
    """A trained network, on the CPU; ``device`` is a GPU by default if there is one.

    Raises FlexEditError without timm.
    """
    hardware = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network().to(hardware).train()
    settings = {"lr": learning_rate, "betas": (0.9, 0.99), "weight_decay": 0.02}
    optimizer = build_optimizer("muon", network, hardware, **settings)
    in_bf16 = fast_dtype(hardware) is torch.bfloat16
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    data, begin, losses = examples(seed), time.monotonic(), []
    for step in range(1, steps + 1):
        crops, answers = zip(*(next(data) for _ in range(batch_size)), strict=True)
        seen = soften(torch.stack(crops), generator).to(hardware)
        with torch.autocast(hardware.type, torch.bfloat16, enabled=in_bf16):
            loss = F.cross_entropy(network(seen).float(), torch.tensor(answers, device=hardware))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 200 == 0 or step == steps:
            mean, seconds = np.mean(losses[-200:]), time.monotonic() - begin
            log.info("step %d of %d, loss %.3f, %.0f s", step, steps, mean, seconds)
    return network.cpu().eval()


def measure(
    judge: Judge, count: int = 1000, size: int = 64, seed: int = TEST_SEED
) -> dict[str, Any]:
    """How often the judge is right on ``count`` held-out scenes of each of the world's edits.

    accuracy: on clean truths · accuracy_blurred: on truths that lost to a blur what a VAE's round
    trip would lose · accuracy_blurred_inside: on those that lost it only around the region ·
    scene_called_success: how often the unchanged scene passes for the result ·
    spoiled_called_success: how often an edit gone wrong (:func:`spoil`) does.
    """
    right: dict[str, dict[str, list[bool]]] = {}
    errors = []
    around = max(1, size // 32)  # pixels; scipy takes 0 for all there are
    for operation in OPERATIONS:
        world = World(size, "heldout", seed, operations={operation: 1.0})
        samples = [sample for index in range(count) if truth_of(sample := world[index])[1].any()]
        truths, regions = zip(*map(truth_of, samples), strict=True)
        soft = [soft_picture(truth, VAE_BLUR * size / 64) for truth in truths]
        errors += [np.square(a / 255 - b / 255).mean() for a, b in zip(soft, truths, strict=True)]
        shown = {
            "accuracy": crops_of(truths, regions),
            "accuracy_blurred": crops_of(soft, regions),
            "accuracy_blurred_inside": crops_of(
                [inside(*three, around) for three in zip(soft, truths, regions, strict=True)],
                regions,
            ),
            "scene_called_success": crops_of([sample.scene for sample in samples], regions),
        }
        rng = np.random.default_rng(seed)
        shown["spoiled_called_success"] = [
            spoil(*crops, rng)
            for crops in zip(shown["accuracy"], shown["scene_called_success"], samples, strict=True)
        ]
        for name, crops in shown.items():
            right.setdefault(name, {})[operation] = [
                answer == sample.result_label
                for answer, sample in zip(judge.read(crops), samples, strict=True)
            ]
    return {
        "split": "heldout",
        "seed": seed,
        "size": size,
        "scenes_per_operation": count,
        "blur": {"sigma": VAE_BLUR * size / 64, "psnr": rounded(-10 * np.log10(errors), 1)},
        **{
            name: {"all": rounded(np.concatenate(list(rows.values())))}
            | {operation: rounded(values) for operation, values in rows.items()}
            for name, rows in right.items()
        },
    }


def soft_picture(picture: np.ndarray, sigma: float) -> np.ndarray:
    """picture (H, W, 3) uint8 through a Gaussian blur."""
    return ndimage.gaussian_filter(picture, (sigma, sigma, 0), mode="nearest")


def inside(soft: np.ndarray, truth: np.ndarray, region: np.ndarray, pixels: int) -> np.ndarray:
    """(H, W, 3): soft in a region (H, W) and so many pixels around it, the truth elsewhere"""
    return np.where(ndimage.binary_dilation(region, iterations=pixels)[..., None], soft, truth)


def rounded(values: Any, digits: int = 4) -> float:
    return round(float(np.mean(values)), digits)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.judge",
        description="Train the judge and measure it on held-out scenes.",
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder (default: the shipped)")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=TRAIN_SEED)
    parser.add_argument("--count", type=int, default=1000, help="held-out scenes an operation")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        network = train(options.steps, options.batch_size, options.seed)
    except FlexEditError as error:
        parser.error(str(error))
    facts = about(network, options.steps, options.batch_size, options.seed, options.count)
    Judge(network, facts).save(options.out)
    facts["measured"] = measure(Judge.load(options.out), options.count)  # of what is shipped
    Judge(network, facts).save(options.out)
    print(json.dumps(facts["measured"], indent=2))


def about(network: Network, steps: int, batch_size: int, seed: int, count: int) -> dict[str, Any]:
    """What a reader of a report should know of the judge, but for how good it is."""
    return {
        "judge": "a convolutional network that says what a picture shows in and around the edited "
        "region, or that it is unclear; an edit succeeds if that is what truth shows there",
        "classes": list(ANSWERS),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "crop": {"side": SIDE, "context": CONTEXT},
        "trained_on": {
            "split": "train",
            "seed": seed,
            "sizes": list(SIZES),
            "operations": OPERATIONS,
            "steps": steps,
            "batch_size": batch_size,
        },
        "sure": SURE,
        "command": f"python -m tools.judge --steps {steps} --batch-size {batch_size} "
        f"--seed {seed} --count {count}",
    }


if __name__ == "__main__":
    main()
