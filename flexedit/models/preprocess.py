"""How a picture is shown to an encoder, which sees squares: padded to one, so that a scribble in
the corner of a 16:9 picture is seen as it is; or as the makers of a released model fitted it.

B batch, S the encoder's side in pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FlexEditError
from ..files import read_json

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Fit = Literal["padded", "squashed", "cropped"]  # cropped: the middle, as far as the shorter side


@dataclass(frozen=True)
class Preprocess:
    """Side and normalisation of an image encoder, as its ``preprocessor_config.json`` says."""

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    fit: Fit = "padded"

    @classmethod
    def from_folder(cls, folder: Path, size: int, fit: Fit = "padded") -> Preprocess:
        """Reads mean and std from the folder; ``size`` is the vision config's ``image_size``."""
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).is_file():
                data = read_json(folder / name)
                if not isinstance(data, dict):
                    break
                data = data.get("image_processor", data)
                if "image_mean" in data and "image_std" in data:
                    return cls(size, tuple(data["image_mean"]), tuple(data["image_std"]), fit)
        raise FlexEditError(
            f"{folder} has no preprocessor_config.json with image_mean and image_std. "
            "Download the folder again, with all its files."
        )

    def __call__(self, pictures: Tensor) -> Tensor:
        """pictures (B, 3, H, W) in 0..1 → (B, 3, S, S), normalised; the padding is the mean."""
        height, width = pictures.shape[-2:]
        inner = self._fitted(height, width)
        if inner != (height, width):
            pictures = F.interpolate(pictures, inner, mode="bicubic", antialias=True).clamp(0, 1)
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self.mean, device=pictures.device, dtype=pictures.dtype).view(shape)
        std = torch.tensor(self.std, device=pictures.device, dtype=pictures.dtype).view(shape)
        # towards zero: what is cut off is shared out as CLIP's own processor does it
        top, left = (int((self.size - side) / 2) for side in inner)
        margins = (left, self.size - inner[1] - left, top, self.size - inner[0] - top)
        return F.pad((pictures - mean) / std, margins)

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the whole picture beside the square that is seen."""
        if self.fit == "squashed":
            return self.size, self.size
        if self.fit == "cropped":  # rounded down, as CLIP's own processor does
            shorter = min(height, width)
            return self.size * height // shorter, self.size * width // shorter
        scale = self.size / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))


def window(height: int, width: int, fit: Fit) -> tuple[float, float]:
    """How high and wide the square that is seen is, in heights and widths of the picture: 1 or more
    where that is padded, 1 or less where it is cropped.
    """
    if fit == "squashed":
        return 1.0, 1.0
    side = max(height, width) if fit == "padded" else min(height, width)
    return side / height, side / width
