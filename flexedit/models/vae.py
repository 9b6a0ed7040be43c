"""Pictures and latents: the VAE as the systems use it.

B batch, H × W pixels, C × h × w a latent
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import masks
from ..errors import FlexEditError


def encode(vae: Any, picture: Tensor) -> Tensor:
    """picture (B, 3, H, W), padded to the VAE's ratio → latent (B, C, h, w): the mode, unscaled."""
    padded = masks.pad_to_multiple(picture, ratio(vae))
    return vae.encode(padded.to(vae.dtype) * 2 - 1).latent_dist.mode()


def decode(vae: Any, latent: Tensor) -> Tensor:
    """Scaled latent (B, C, h, w) → picture (B, 3, 8h, 8w) in 0..1, still padded.

    Raises FlexEditError where numbers overflowed.
    """
    picture = vae.decode((latent / vae.config.scaling_factor).to(vae.dtype)).sample
    if not picture.isfinite().all():
        raise FlexEditError(
            "The edit came out as no picture: its numbers overflowed. Lower edit_cfg if it is "
            "high, or compute in a wider type (dtype=torch.bfloat16, in a shell --device cpu)."
        )
    return (picture.float() / 2 + 0.5).clamp(0, 1)


def ratio(vae: Any) -> int:
    """Pixels per latent pixel."""
    return 2 ** (len(vae.config.block_out_channels) - 1)
