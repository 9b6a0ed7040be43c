"""What training minimises beside the VLLM's own loss (eq. 5). A loss is a vector over rows, (B,).

B batch, K noises of one row, Q edit embeddings, D width of the context, C × h × w a latent
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..models.parts import PictureTokens
from .batch import Batch

# Latent pixels around the edited region that weigh as it does. Where it ends is what a prediction
# has to guess: a weight that ended there too would make it guess too wide.
MARGIN = 2


def alignment(e: Tensor, target: Tensor, has_caption: Tensor) -> Tensor:
    """Stage 1: distance of e (B, Q, D) to CLIP's text embedding of the caption; 0 for questions."""
    return (e - target).square().mean((1, 2)) * has_caption


def region_weight(region: Tensor, height: int, width: int, weight: float) -> Tensor:
    """region (B, H, W), where the target differs → how much each latent pixel counts (B, 1, h, w):
    ``weight`` in and around it, 1 elsewhere.
    """
    inside = F.adaptive_max_pool2d(region[:, None], (height, width))
    inside = F.max_pool2d(inside, 2 * MARGIN + 1, 1, MARGIN)
    return 1 + (weight - 1) * inside


def diffusion(prediction: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """L_diffusion (eq. 4): prediction, wanted (B·K, C, h, w), weight (B, 1, h, w) → (B,)"""
    error = (prediction.float() - wanted).square()
    error = rearrange(error, "(b k) ... -> b k ...", b=len(weight)) * weight[:, None]
    return error.mean((1, 2, 3, 4))


def perceptual(seen: PictureTokens, truth: PictureTokens, left: Tensor) -> Tensor:
    """1 − the cosine of what CLIP sees in two pictures, over patches (B,), each row weighed by how
    much of its picture the noise had left (B,): of pure noise nobody can draw sharply.
    """
    alike = F.cosine_similarity(seen.raw.float(), truth.raw.float(), dim=-1)
    return left * (1 - alike).mean(-1)


def helpers(output: Tensor, batch: Batch, weight: Tensor) -> dict[str, Tensor]:
    """Losses (B, K, h, w) of what is read off the UNet's last features: what is where in the scene,
    what in the result (``weight`` (B, 1, h, w) counts the edited region more), and what is meant.

    output (B, 2 · classes + 1, K, h, w): logits of scene, of result, of the mask
    """
    height, width = output.shape[-2:]
    scene, result = output[:, :-1].chunk(2, dim=1)

    def small(picture: Tensor) -> Tensor:  # (B, H, W) → (B, K, h, w)
        picked = F.interpolate(picture[:, None].float(), (height, width), mode="nearest-exact")
        return picked.expand(-1, output.shape[2], -1, -1)

    def by_class(logits: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(logits, small(classes).long(), reduction="none")

    meant = F.adaptive_avg_pool2d(batch.object_mask[:, None], (height, width))
    return {
        "helper_classes": by_class(scene, batch.classes),
        "helper_result": weight * by_class(result, batch.result_classes),
        "helper_mask": F.binary_cross_entropy_with_logits(
            output[:, -1], meant.expand_as(output[:, -1]), reduction="none"
        ),
    }
