"""The VAE learns to reconstruct pictures, and what its latents are multiplied by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch, Samples, collate
from ..trainer import Trainee
from .shape import Shape


def load_vae(folder: Path, shape: Shape, unseen: Samples) -> tuple[Any, VAEPretraining]:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder)
    return vae, VAEPretraining(vae, unseen)


class VAEPretraining(Trainee):
    """Reconstruction of targets by a KL autoencoder: L1 + squared error + ``kl`` times the KL of
    all latents of a picture; with ten times this weight small things are lost.

    unseen: samples by which the latents' scale is found
    """

    def __init__(self, vae: Any, unseen: Samples, kl: float = 1e-6) -> None:
        super().__init__()
        self.vae, self.unseen, self.kl = vae, unseen, kl

    def forward(self, batch: Batch, draw: None) -> dict[str, Tensor]:
        picture = batch.target * 2 - 1
        posterior = self.vae.encode(picture).latent_dist
        decoded = self.vae.decode(posterior.sample()).sample
        return reconstruction(decoded, picture) | {"kl": self.kl * posterior.kl()}

    @torch.no_grad()
    def complete(self) -> None:
        """Diffusion multiplies latents by 1 / their standard deviation."""
        probe = collate([self.unseen[index] for index in range(256)]).to(self.vae.device)
        latents = self.vae.encode(probe.target * 2 - 1).latent_dist.mode()
        self.vae.register_to_config(scaling_factor=1 / float(latents.std()))


def reconstruction(decoded: Tensor, picture: Tensor) -> dict[str, Tensor]:
    """L1 and squared error of each row: decoded, picture (B, 3, H, W) in -1..1"""
    error = decoded.float() - picture
    return {"l1": error.abs().mean((1, 2, 3)), "l2": 2 * error.square().mean((1, 2, 3))}
