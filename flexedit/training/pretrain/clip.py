"""CLIP learns which pictures and sentences belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...data.world.assets import CLASSES
from ...models.clip import project_tokens
from ...models.preprocess import Preprocess
from ..batch import Batch
from ..trainer import Trainee
from .shape import Shape
from .vision import DenseHead, Views


def load_clip(folder: Path, shape: Shape, keeps_text: bool = False) -> tuple[Any, CLIPPretraining]:
    from transformers import AutoTokenizer, CLIPModel

    clip = CLIPModel.from_pretrained(folder, attn_implementation="eager")
    clip.text_model.requires_grad_(not keeps_text)
    preprocess = Preprocess.from_folder(folder, shape.size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return clip, CLIPPretraining(clip, tokenizer, preprocess, shape.size // shape.patch)


class CLIPPretraining(Trainee):
    """Contrast of pictures and sentences, beside the dense labels on the projected tokens."""

    def __init__(self, clip: Any, tokenizer: Any, preprocess: Preprocess, patches: int) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.preprocess = clip, tokenizer, preprocess
        self.head = DenseHead(clip.config.projection_dim, patches)

    def forward(self, batch: Batch, draw: None) -> dict[str, Tensor]:
        views = Views.of(batch)
        pixels = self.preprocess(views.pictures)
        ids = self.tokenizer(
            [describe(classes) for classes in views.classes],
            padding="max_length",
            truncation=True,
            max_length=self.clip.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )["input_ids"].to(pixels.device)
        seen = self.clip.vision_model(pixel_values=pixels).last_hidden_state
        tokens = project_tokens(seen, self.clip.vision_model, self.clip.visual_projection)
        read = self.clip.text_model(input_ids=ids).pooler_output
        picture = F.normalize(tokens.mean(1).float(), dim=-1)
        text = F.normalize(self.clip.text_projection(read).float(), dim=-1)
        logits = self.clip.logit_scale.exp().clamp(max=100) * picture @ text.T
        same = (ids[:, None] == ids[None]).all(-1).float()  # two pictures may read the same
        target = same / same.sum(-1, keepdim=True)
        contrast = F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(
            logits.T, target, reduction="none"
        )
        return {"contrast": 0.5 * contrast, **self.head(tokens, views)}


def describe(classes: Tensor) -> str:
    """classes (H, W) → "a dog, a key and a turtle": what a picture shows."""
    names = [f"a {CLASSES[index - 1]}" for index in classes.unique().tolist() if index]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names or ["air"])
