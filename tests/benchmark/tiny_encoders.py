"""Encoders with random weights, in the folders and files that the real ones come in."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torchvision

from flexedit.benchmark.encoders import ALEXNET, CLIP, Encoders
from flexedit.training.pretrain.parts import build_clip
from tests.tiny import TEXTS, TINY


def make_encoders(folder: Path) -> Encoders:
    """``clip/``, ``dino/`` and AlexNet's file inside the folder, loaded as a person would."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build_clip(TINY, TEXTS, folder / "clip")
        make_dino(folder / "dino")
        make_alexnet(folder / ALEXNET)
    loaded = Encoders.load(
        str(folder / "clip"), str(folder / "dino"), str(folder / ALEXNET), device="cpu"
    )
    assert not loaded.unavailable
    return loaded


def turned(clip: CLIP, sign: int) -> CLIP:
    """The same CLIP with all its text embeddings times a sign."""
    model = copy.deepcopy(clip.model)
    model.text_projection.weight.data *= sign
    return CLIP(model, clip.processor)


def make_dino(folder: Path) -> None:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    side = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 28}, crop_size=side).save_pretrained(folder)


def make_alexnet(file: Path) -> None:
    """Under torchvision's names; the classifier, which nobody reads, is left out."""
    weights = torchvision.models.alexnet(weights=None).state_dict()
    torch.save({key: value for key, value in weights.items() if "features" in key}, file)
