"""How a picture is shown to an encoder: padded to a square, never cropped, so that a scribble in
the corner of a 16:9 picture is seen.

B batch, S the encoder's side in pixels
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FlexEditError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """Side and normalisation of an image encoder, as its ``preprocessor_config.json`` says."""

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def from_folder(cls, folder: Path, size: int) -> Preprocess:
        """Reads mean and std from the folder; ``size`` is the vision config's ``image_size``."""
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).is_file():
                try:
                    data = json.loads((folder / name).read_text(encoding="utf-8"))
                except ValueError:  # neither JSON nor UTF-8
                    break
                data = data.get("image_processor", data)
                if "image_mean" in data and "image_std" in data:
                    return cls(size, tuple(data["image_mean"]), tuple(data["image_std"]))
        raise FlexEditError(
            f"{folder} has no preprocessor_config.json with image_mean and image_std. "
            "Download the folder again, with all its files."
        )

    def __call__(self, pictures: Tensor) -> Tensor:
        """pictures (B, 3, H, W) in 0..1 → (B, 3, S, S), normalised; the padding is the mean."""
        height, width = pictures.shape[-2:]
        scale = self.size / max(height, width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        if inner != (height, width):
            pictures = F.interpolate(pictures, inner, mode="bicubic", antialias=True).clamp(0, 1)
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self.mean, device=pictures.device, dtype=pictures.dtype).view(shape)
        std = torch.tensor(self.std, device=pictures.device, dtype=pictures.dtype).view(shape)
        top, left = (self.size - inner[0]) // 2, (self.size - inner[1]) // 2
        margins = (left, self.size - inner[1] - left, top, self.size - inner[0] - top)
        return F.pad((pictures - mean) / std, margins)
