"""The VAE's decoder learns to forgive what a UNet gets wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..trainer import Trainee
from .shape import Shape
from .vae import reconstruction


def load_decoder(folder: Path, shape: Shape) -> tuple[Any, DecoderPretraining]:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder)
    return vae, DecoderPretraining(vae)


class DecoderPretraining(Trainee):
    """The VAE's decoder alone learns on, from latents that are off as those of a UNet are; the
    encoder, and with it every latent that was learned from, stays.

    ``noise``: the standard deviation of what is added, up to this share of the latents' own.
    """

    def __init__(self, vae: Any, noise: float = 0.2) -> None:
        super().__init__()
        self.vae, self.noise = vae.requires_grad_(False), noise
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)

    def forward(self, batch: Batch, draw: None) -> dict[str, Tensor]:
        picture = batch.target * 2 - 1
        with torch.no_grad():
            latent = self.vae.encode(picture).latent_dist.mode()
            spread = self.noise / self.vae.config.scaling_factor
            spread = spread * torch.rand(len(latent), 1, 1, 1, device=latent.device)
            latent = latent + spread * torch.randn_like(latent)
        return reconstruction(self.vae.decode(latent).sample, picture)
