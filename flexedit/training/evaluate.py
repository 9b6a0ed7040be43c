"""What a trained model does on held-out scenes, as Markdown tables.

``python -m flexedit.training.evaluate --count 400`` prints them. Edit success is judged without
any network: every thing that could stand at the place is rendered there (each class, nothing, the
scene unchanged), and the edit is right if the output is nearest to the truth among all of them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from .. import masks
from ..data.assets import CLASSES
from ..data.objects import at, box_of, canonical, compose, draw
from ..data.world import MAX_SIZE, MIN_SIZE, Sample, World
from ..pipeline import FlexEditPipeline, decode, scene_latent
from .batch import collate

EDITS = ("remove", "replace", "add", "swap", "insert", "recolor")
OLD_GONE = ("remove", "replace", "swap")  # the thing that was there is gone afterwards


def candidates(world: World, index: int, sample: Sample) -> list[np.ndarray]:
    """All that could stand at the place, as pictures (H, W, 3) uint8; the truth comes first."""
    assert sample.target is not None
    empty, place = sample.scene, sample.object_mask
    options = [sample.target, sample.scene]
    if sample.operation == "recolor":
        return options
    if sample.operation in OLD_GONE:
        without = World(world.size, world.split, world.seed, operations={"remove": 1.0})[index]
        if not np.array_equal(without.scene, sample.scene):
            return options  # rare: the dice fell otherwise for another operation
        assert without.target is not None
        empty, place = without.target, without.object_mask
    if sample.operation in ("add", "insert"):
        place = sample.mask
    if sample.operation in ("replace", "swap"):
        options.append(empty)
    backdrop = empty.transpose(2, 0, 1).astype(np.float32)
    center, extent = box_of(place)
    size = float(np.clip(extent / world.size, MIN_SIZE, MAX_SIZE))
    for label, name in enumerate(CLASSES):
        if f" {name}" in f" {sample.caption}" and sample.operation != "remove":
            continue  # the truth itself shows this class
        look = canonical(label, size)
        options.append(compose(backdrop, [at(look, draw(look, world.size), center, world.size)]))
    return options


def is_right(output: np.ndarray, options: Sequence[np.ndarray]) -> bool:
    """Whether output (H, W, 3) in 0..255 is nearest to the first option, where options differ."""
    stacked = np.stack(options).astype(np.float32)
    where = (stacked != stacked[0]).any((0, 3))
    errors = np.square(stacked[:, where] - output.astype(np.float32)[where]).mean((1, 2))
    return int(errors.argmin()) == 0


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """dB over the pixels of ``where`` (H, W), pictures in 0..255."""
    error = np.square(a[where].astype(np.float64) - b[where].astype(np.float64)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def batches(indices: Iterable[int], size: int) -> Iterator[list[int]]:
    rows = list(indices)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def evaluate(
    pipeline: FlexEditPipeline,
    count: int,
    seed: int = 0,
    batch_size: int = 32,
    reply: str = "direct",
    **sampling: Any,
) -> dict[str, Any]:
    """Half of the ``count`` held-out scenes are segmented, half edited; see :func:`table`."""
    size = pipeline.config.sampling.size
    found: dict[str, Any] = {"count": count, "seed": seed, "reply": reply}
    found |= segmentation(
        pipeline,
        World(size, "heldout", seed, operations={"segment": 1.0}),
        range(count // 2),
        batch_size,
        sampling,
    )
    mixed = World(size, "heldout", seed, operations=dict.fromkeys(EDITS, 1.0))
    found |= editing(pipeline, mixed, range(count // 2, count), batch_size, reply, sampling)
    return found


def segmentation(
    pipeline: FlexEditPipeline,
    world: World,
    indices: Iterable[int],
    batch_size: int,
    sampling: dict[str, Any],
) -> dict[str, Any]:
    """Labels and painted full masks, by mask kind."""
    right, painted_iou, scribble_iou = defaultdict(list), defaultdict(list), defaultdict(list)
    for rows in batches(indices, batch_size):
        batch = collate([world[index] for index in rows])
        result = pipeline(batch.request, reply="generate", **sampling)
        read = masks.read_painted(batch.request.scene, result.picture.cpu()) > 0.5
        for sample, label, mask in zip(batch.samples, result.labels, read.numpy(), strict=True):
            right[sample.kind].append(label == sample.label)
            painted_iou[sample.kind].append(iou(mask, sample.object_mask))
            scribble_iou[sample.kind].append(iou(sample.mask, sample.object_mask))
    return {
        "label": means(right),
        "painted_iou": means(painted_iou),
        "scribble_iou": means(scribble_iou),
    }


def editing(
    pipeline: FlexEditPipeline,
    world: World,
    indices: Iterable[int],
    batch_size: int,
    reply: str,
    sampling: dict[str, Any],
) -> dict[str, Any]:
    """Edit success by operation, and what happens to the background."""
    success, background, ceiling = defaultdict(list), defaultdict(list), defaultdict(list)
    for rows in batches(indices, batch_size):
        batch = collate([world[index] for index in rows])
        result = pipeline(batch.request, reply=reply, **sampling)  # type: ignore[arg-type]
        trip = round_trip(pipeline, batch.request.scene)
        outputs = to_arrays(result.picture)
        for index, sample, output, kept in zip(rows, batch.samples, outputs, trip, strict=True):
            success[sample.operation].append(is_right(output, candidates(world, index, sample)))
            outside = ~ndimage.binary_dilation(sample.region, iterations=2)
            background[sample.operation].append(psnr(output, sample.scene, outside))
            ceiling[sample.operation].append(psnr(kept, sample.scene, outside))
    return {
        "success": means(success),
        "background_psnr": means(background),
        "round_trip_psnr": means(ceiling),
    }


@torch.inference_mode()
def round_trip(pipeline: FlexEditPipeline, scene: torch.Tensor) -> np.ndarray:
    """The scene through the VAE and back: no edit can keep the background better."""
    latent = scene_latent(pipeline.vae, scene.to(pipeline.device))
    return to_arrays(decode(pipeline.vae, latent * pipeline.vae.config.scaling_factor))


def to_arrays(pictures: torch.Tensor) -> np.ndarray:
    """(B, 3, H, W) in 0..1 → (B, H, W, 3) in 0..255"""
    return (pictures.cpu().numpy() * 255).transpose(0, 2, 3, 1)


def means(rows: dict[str, list[Any]]) -> dict[str, float]:
    everything = [value for values in rows.values() for value in values]
    by_name = {name: float(np.mean(values)) for name, values in sorted(rows.items())}
    return {"all": float(np.mean(everything))} | by_name


def table(found: dict[str, Any]) -> str:
    """The measurements as two Markdown tables."""
    kinds = list(found["label"])
    lines = [
        "| mask kind | names the object | painted mask IoU | the scribble's own IoU |",
        "|---|---|---|---|",
        *(
            f"| {kind} | {found['label'][kind]:.0%} | {found['painted_iou'][kind]:.2f} "
            f"| {found['scribble_iou'][kind]:.2f} |"
            for kind in kinds
        ),
        "",
        "| edit | success | background PSNR | VAE round trip |",
        "|---|---|---|---|",
        *(
            f"| {name} | {found['success'][name]:.0%} | {found['background_psnr'][name]:.1f} dB "
            f"| {found['round_trip_psnr'][name]:.1f} dB |"
            for name in found["success"]
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model folder; default: flexedit-mini")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reply", choices=("direct", "generate"), default="direct")
    parser.add_argument("--edit-cfg", type=float)
    parser.add_argument("--scene-cfg", type=float)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = evaluate(
        FlexEditPipeline.from_pretrained(options.model),
        options.count,
        options.seed,
        reply=options.reply,
        edit_cfg=options.edit_cfg,
        scene_cfg=options.scene_cfg,
    )
    print(json.dumps(found) if options.json else table(found))


if __name__ == "__main__":
    main()
