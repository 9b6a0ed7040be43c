"""Pictures to look at while a system trains: marked scenes, their edits and the truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..models import vae
from ..models.diffusion import sampling
from ..systems.system import condition, predictor
from .batch import Batch, Samples, collate
from .model import TrainingModel

COUNT = 16  # columns of a grid
VALIDATION_SEED = 1000  # of a world that no stage trains on


class PictureGrid:
    """Call it with a step: it makes a picture (H, W, 3) uint8 of the first samples that have a
    target, if there are any, and writes ``folder/<step>.png``.

    writes: whether this process does, of those that make it together
    """

    batch: Batch | None

    def __init__(
        self,
        system: TrainingModel,
        folder: Path,
        samples: Samples,
        count: int = COUNT,
        writes: bool = True,
    ) -> None:
        self.system, self.folder, self.writes = system, folder, writes
        first = (samples[index] for index in range(10 * count))
        edits = list(islice((sample for sample in first if sample.target is not None), count))
        self.batch = collate(edits) if edits else None

    def __call__(self, step: int) -> np.ndarray | None:
        if self.batch is None:
            return None
        edited = edit(self.system, self.batch)
        rows = [self.batch.request.marked(), edited, self.batch.target]
        grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
        picture = (grid.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(picture)).save(self.folder / f"{step:06d}.png")
        return picture


@torch.no_grad()
def edit(system: TrainingModel, batch: Batch, seed: int = 0) -> Tensor:
    """The pictures (B, 3, H, W) that a system in training makes of a batch, on the CPU."""
    with evaluating(system):
        advice, device = system.config.sampling, next(system.parameters()).device
        size = len(batch.captions)
        batch = batch.to(device)
        embeds, _ = system.embed(batch, system.draw(seed, size).to(device))
        branches = condition(system, embeds)
        start = sampling.noise(tuple(branches.positive.scene_latent.shape), seed)
        latent = sampling.sample(
            predictor(system.unet, system.adapter, branches),
            start.to(device),
            system.config.diffusion,
            advice.num_steps,
            advice.edit_cfg,
            advice.scene_cfg,
        )
        return vae.decode(system.vae, latent).cpu()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; then each module is as it was, for the frozen ones never train."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
