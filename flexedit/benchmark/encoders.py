"""Encoders that metrics look through: CLIP, DINOv2 and LPIPS.

None of them is shipped or fetched unasked. CLIP and DINOv2 come from a local folder or from a hub
id with its revision (``owner/name@<40 hex digits>``), so that two people who compare numbers have
used the same weights; there is no default, for a name alone does not pin them. LPIPS reads
torchvision's AlexNet from a given file or from torch's hub folder, its heads come with
torchmetrics. What cannot be had says why in :attr:`Encoders.unavailable`.

N pictures of any sizes, D the width of an embedding
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import FlexEditError
from ..pipeline import usable_device

ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's IMAGENET1K_V1, as torch's hub folder names it
SMALLEST = 64  # LPIPS was calibrated on patches of 64 pixels; smaller pictures are enlarged to it
GREY = 128  # beside pictures that are not square
PINNED = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
NOT_LOADED = (
    FlexEditError,
    EOFError,
    ImportError,
    OSError,
    RuntimeError,
    ValueError,
    SafetensorError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class CLIP:
    """A transformers CLIPModel with its processor, in the standard preprocessing of its folder.

    torchmetrics' CLIPScore expects of the model what only transformers 4 returned.
    """

    model: Any
    processor: Any

    @classmethod
    def load(cls, source: str, device: torch.device) -> CLIP:
        from transformers import AutoProcessor, CLIPModel

        model, where = load_model(CLIPModel, "clip", source)
        return cls(model.to(device), AutoProcessor.from_pretrained(**where))

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """N pictures (H, W, 3) uint8 → embeddings (N, D) of length 1, on the CPU."""
        pixels = self.processor(images=to_pil(pictures), return_tensors="pt")["pixel_values"]
        pooled = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1).cpu()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """N sentences → embeddings (N, D) of length 1, on the CPU; longer than CLIP reads: cut."""
        tokens = self.processor(
            text=list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1).cpu()


@dataclass(frozen=True)
class DINO:
    """A transformers DINOv2; a picture's embedding is its CLS token after the last LayerNorm."""

    model: Any
    processor: Any

    @classmethod
    def load(cls, source: str, device: torch.device) -> DINO:
        from transformers import AutoImageProcessor, AutoModel

        model, where = load_model(AutoModel, "dinov2", source)
        return cls(model.to(device), AutoImageProcessor.from_pretrained(**where))

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """N pictures (H, W, 3) uint8 → embeddings (N, D) of length 1, on the CPU."""
        pixels = self.processor(images=to_pil(pictures), return_tensors="pt")["pixel_values"]
        pooled = self.model(pixel_values=pixels.to(self.model.device)).pooler_output
        return F.normalize(pooled, dim=-1).cpu()


@dataclass(frozen=True)
class LPIPS:
    """torchmetrics' LPIPS on AlexNet."""

    network: nn.Module
    device: torch.device

    @classmethod
    def load(cls, file: str | None, device: torch.device) -> LPIPS:
        """``file``: torchvision's AlexNet weights; None looks into torch's hub folder."""
        # torchmetrics' public class takes no file of weights and would download AlexNet.
        from torchmetrics.functional.image.lpips import _LPIPS

        path = Path(file) if file else Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
        if not path.is_file():
            raise FlexEditError(
                f"there are no AlexNet weights at {path}. Give their file, or let torchvision "
                "fetch them: torchvision.models.alexnet(weights='IMAGENET1K_V1')."
            )
        weights = torch.load(path, map_location="cpu", weights_only=True)
        network = _LPIPS(net="alex", pnet_rand=True)
        backbone = network.net
        # "slice3.6.weight" here is torchvision's "features.6.weight"
        names = {key: "features." + key.partition(".")[2] for key in backbone.state_dict()}
        if missing := sorted(set(names.values()) - set(weights)):
            raise FlexEditError(f"{path} is no AlexNet of torchvision: it lacks {missing[0]}.")
        backbone.load_state_dict({key: weights[name] for key, name in names.items()})
        return cls(network.eval().to(device), device)

    @torch.inference_mode()
    def __call__(self, a: np.ndarray, b: np.ndarray) -> float:
        """Perceptual distance of two pictures (H, W, 3) uint8 of one size; 0 if they are equal.

        Pictures whose shorter side is below SMALLEST are first enlarged to it, bilinearly.
        """
        pair = torch.from_numpy(np.stack([a, b])).permute(0, 3, 1, 2).float() / 255
        shorter = min(pair.shape[2:])
        if shorter < SMALLEST:
            size = [round(side * SMALLEST / shorter) for side in pair.shape[2:]]
            pair = F.interpolate(pair, size, mode="bilinear", align_corners=False)
        first, second = pair.to(self.device).chunk(2)
        return float(self.network(first, second, normalize=True))


@dataclass(frozen=True)
class Encoders:
    """The encoders that could be had; ``sources`` says where from, ``unavailable`` why not.

    Both go by encoder: "clip", "dino", "lpips".
    """

    clip: CLIP | None = None
    dino: DINO | None = None
    lpips: LPIPS | None = None
    sources: dict[str, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        clip: str | None = None,
        dino: str | None = None,
        lpips: str | None = None,
        device: str | None = None,
    ) -> Encoders:
        """Loads what it can. ``clip``, ``dino``: a folder or ``owner/name@<revision>``, none by
        default · ``lpips``: a file of AlexNet weights, by default torch's hub folder · ``device``:
        a GPU by default if there is one.
        """
        place = usable_device(device)
        sources = {
            "clip": clip,
            "dino": dino,
            "lpips": lpips or f"{ALEXNET} in torch's hub folder",
        }
        loaders: dict[str, Callable[[], Any]] = {
            "clip": lambda: CLIP.load(given(clip), place),
            "dino": lambda: DINO.load(given(dino), place),
            "lpips": lambda: LPIPS.load(lpips, place),
        }
        loaded, unavailable = {}, {}
        for name, load in loaders.items():
            try:
                loaded[name] = load()
            except NOT_LOADED as error:
                unavailable[name] = f"unavailable, because {' '.join(str(error).split())}"
        used = {name: source for name, source in sources.items() if source and name in loaded}
        return cls(**loaded, sources=used, unavailable=unavailable)


def given(source: str | None) -> str:
    if source is None:
        raise FlexEditError("none was given. Name a folder or owner/name@<revision>.")
    return source


def load_model(kind: Any, family: str, source: str) -> tuple[Any, dict[str, str]]:
    """A model of transformers class ``kind``, and from where, as ``from_pretrained`` takes it.

    ``family`` is how its config must begin to name its type. Raises FlexEditError for a source
    that is neither a folder nor a pinned hub id, for another model, and for missing weights.
    """
    from transformers import AutoConfig

    where = locate(source)
    model_type = AutoConfig.from_pretrained(**where).model_type
    if not model_type.startswith(family):
        raise FlexEditError(f"{source} holds a model of type {model_type!r}, not {family!r}.")
    model, loading = kind.from_pretrained(**where, output_loading_info=True)
    if loading["missing_keys"]:
        raise FlexEditError(f"{source} lacks the weights {sorted(loading['missing_keys'])[0]}.")
    return model.eval(), where


def locate(source: str) -> dict[str, str]:
    """A folder or a pinned hub id as arguments of ``from_pretrained``."""
    if Path(source).is_dir():
        return {"pretrained_model_name_or_path": source}
    if pinned := PINNED.fullmatch(source):
        return {"pretrained_model_name_or_path": pinned[1], "revision": pinned[2]}
    raise FlexEditError(
        f"{source} is neither a folder nor a pinned hub id. Write the id with its revision: "
        "owner/name@<the commit's 40 hex digits>."
    )


def to_pil(pictures: Sequence[np.ndarray]) -> list[Image.Image]:
    """PIL squares: grey at the sides, so that a processor that crops the centre sees all."""
    return [Image.fromarray(square(picture)) for picture in pictures]


def square(picture: np.ndarray) -> np.ndarray:
    """picture (H, W, 3) uint8 in the middle of a grey square."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    canvas = np.full((side, side, 3), GREY, np.uint8)
    canvas[top : top + height, left : left + width] = picture
    return canvas
