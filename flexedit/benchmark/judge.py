"""The judge: a small classifier that says what a place shows after an edit.

It looks at nothing but the finished picture around the truth's edited region and names one of the
world's classes, "background", or says that what is there is unclear: a smudge, a ghost, half of
one thing and half of another. An edit has succeeded if the answer is what the truth shows there.
Its data are renderings of the synthetic world that no other part of FlexEdit is trained or
measured on (a seed of its own); the sprites are the same. What is unclear it learns from those
renderings too, spoiled on purpose, and from no model's results; only how sure it must be of a
thing (SURE) was chosen by results that readers had seen. How often it is right is measured on
held-out scenes and travels with the weights in ``judge.json``.

``python -m tools.judge`` trains it again and writes the shipped files.
B batch, S the side of a crop in pixels, H × W a picture
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.world.assets import CLASSES
from ..errors import FlexEditError
from ..files import read_json
from ..masks import bounding_crop
from ..prompts import BACKGROUND

FOLDER = Path(__file__).parent / "judge"
WEIGHTS, FACTS = "judge.safetensors", "judge.json"

UNCLEAR = "unclear"
ANSWERS = (*CLASSES, BACKGROUND, UNCLEAR)
SIDE = 48  # S
CELLS = 6  # a side: of the last feature map, and of what the judge is told of the region
BILINEAR = Image.Resampling.BILINEAR
CONTEXT = 1.4  # side of the crop / longer side of the region's bounding box
WIDTHS = (32, 64, 96)
# It names a thing only if the thing's logit is at least so far above that of "unclear": so it calls
# as many of 288 validation results of flexedit-mini right as readers do.
SURE = 1.0

Window = tuple[slice, slice]  # rows, columns


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.relu(self.norm(x)))


class Network(nn.Module):
    """Crops (B, 4, S, S) → logits (B, number of ANSWERS); see :func:`crop` for the channels."""

    def __init__(self, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        first, second, third = widths
        self.body = nn.Sequential(
            nn.Conv2d(4, first, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(8, first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
            Residual(second),
            Residual(second),
            nn.GroupNorm(8, second),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1, bias=False),
            *(Residual(third) for _ in range(3)),  # so that each cell sees nearly the whole crop
            nn.GroupNorm(8, third),
            nn.ReLU(),
        )
        self.head = nn.Linear(third, len(ANSWERS))

    def forward(self, crops: Tensor) -> Tensor:
        features = self.body(crops)
        weight = F.adaptive_avg_pool2d(crops[:, 3:], features.shape[-2:])  # look at the region
        return self.head((features * weight).sum((2, 3)) / weight.sum((2, 3)))


@dataclass(frozen=True)
class Judge:
    """``facts`` says what it was trained on and how often it is right (see tools/judge.py)."""

    network: Network
    facts: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path = FOLDER) -> Judge:
        folder = Path(folder)
        network = Network()
        try:
            facts = read_json(folder / FACTS)
            weights = load_file(folder / WEIGHTS)
            network.load_state_dict({name: value.float() for name, value in weights.items()})
        except (FlexEditError, OSError, SafetensorError, RuntimeError) as error:
            raise FlexEditError(
                f"{folder} holds no judge that can be read ({error}). "
                f"Train one with `python -m tools.judge --out {folder}`."
            ) from error
        return cls(network.eval(), facts)

    def save(self, folder: str | Path) -> None:
        """Half precision weights and the facts."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.network.state_dict()
        save_file({name: value.cpu().half() for name, value in state.items()}, folder / WEIGHTS)
        facts = json.dumps(self.facts, indent=2, ensure_ascii=False)
        (folder / FACTS).write_text(facts + "\n", encoding="utf-8")

    def answers(
        self, pictures: Sequence[np.ndarray], regions: Sequence[np.ndarray], batch_size: int = 256
    ) -> list[str]:
        """What each picture (H, W, 3) uint8 shows in its region (H, W) bool: one of ANSWERS.

        Raises FlexEditError for an empty region, which shows nothing.
        """
        return self.read(crops_of(pictures, regions), batch_size)

    @torch.inference_mode()
    def read(self, crops: list[Tensor], batch_size: int = 256) -> list[str]:
        """What each crop (4, S, S) shows: one of ANSWERS."""
        batches = (crops[start : start + batch_size] for start in range(0, len(crops), batch_size))
        sure = self.facts.get("sure", SURE)
        chosen = (choose(self.network(torch.stack(batch)), sure) for batch in batches)
        return [ANSWERS[index] for indices in chosen for index in indices]


def choose(logits: Tensor, sure: float = SURE) -> Tensor:
    """logits (B, number of ANSWERS) → indices of the answers (B,): the likeliest, but unclear if
    that is a thing less than ``sure`` above unclear.
    """
    unclear = ANSWERS.index(UNCLEAR)
    score, best = logits[:, :unclear].max(1)  # unclear is the last
    is_thing = best != ANSWERS.index(BACKGROUND)
    return torch.where(score < logits[:, unclear] + sure * is_thing, unclear, best)


def crops_of(pictures: Sequence[np.ndarray], regions: Sequence[np.ndarray]) -> list[Tensor]:
    return [crop(*pair) for pair in zip(pictures, regions, strict=True)]


def crop(picture: np.ndarray, region: np.ndarray, window: Window | None = None) -> Tensor:
    """What the judge sees (4, S, S): colours and roughly where the region is, in 0..1.

    picture (H, W, 3) uint8, region (H, W) bool, not empty. The region is too coarse to tell what
    has that silhouette.
    """
    window = window or window_around(region)
    colors = Image.fromarray(np.ascontiguousarray(picture[window]))
    place = Image.fromarray(region[window].astype(np.float32))
    seen = np.empty((4, SIDE, SIDE), np.float32)
    seen[:3] = np.moveaxis(np.asarray(colors.resize((SIDE, SIDE), BILINEAR)), 2, 0)
    seen[:3] /= 255
    coarse = place.resize((CELLS, CELLS), Image.Resampling.BOX)
    seen[3] = np.asarray(coarse.resize((SIDE, SIDE), BILINEAR))
    return torch.from_numpy(seen)


def window_around(
    region: np.ndarray, context: float = CONTEXT, shift: tuple[float, float] = (0.0, 0.0)
) -> Window:
    """Rows and columns of a square around a region (H, W) bool, ``context`` times as long.

    It is moved by ``shift`` (x, y, fractions of its side) and back inside where it left the
    picture. Raises FlexEditError for an empty region.
    """
    ((left, top, right, bottom),) = bounding_crop(torch.from_numpy(region[None]), context, 8)
    width, height = right - left, bottom - top
    left = int(np.clip(left + shift[0] * width, 0, region.shape[1] - width))
    top = int(np.clip(top + shift[1] * height, 0, region.shape[0] - height))
    return np.s_[top : top + height], np.s_[left : left + width]
