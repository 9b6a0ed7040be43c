"""What a small system needs before FlexEdit's own training: the parts that others download.

Each class is a trainee of :mod:`flexedit.training.trainer`: ``forward(batch, draw)`` → losses, one
per row of the batch or per picture that is looked at.
B batch, N pictures, T patch tokens of a picture, P patches a side
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .. import prompts
from ..data.world.assets import CLASSES
from ..models.clip import project_tokens
from ..models.preprocess import Preprocess
from ..models.vllm import VLLM
from .batch import Batch
from .draws import Draw, Recipe


@dataclass(frozen=True)
class NoDraw:
    """For trainees that have no draw shared by all processes."""

    def rows(self, start: int, stop: int) -> NoDraw:
        return self

    def to(self, device: torch.device) -> NoDraw:
        return self


class WithoutDraw(nn.Module):
    """What is random in its losses comes from torch's own generator, which the trainer seeds."""

    def draw(self, step: int, batch_size: int) -> Any:
        return NoDraw()


class VAEPretraining(WithoutDraw):
    """Reconstruction of targets by a KL autoencoder: L1 + squared error + ``kl`` times the KL of
    all latents of a picture; with ten times this weight small things are lost.
    """

    def __init__(self, vae: nn.Module, kl: float = 1e-6) -> None:
        super().__init__()
        self.vae, self.kl = vae, kl

    def forward(self, batch: Batch, draw: NoDraw) -> dict[str, Tensor]:
        picture = batch.target * 2 - 1
        posterior = self.vae.encode(picture).latent_dist  # type: ignore[operator]
        decoded = self.vae.decode(posterior.sample()).sample  # type: ignore[operator]
        return reconstruction(decoded, picture) | {"kl": self.kl * posterior.kl()}

    @torch.no_grad()
    def scaling_factor(self, batch: Batch) -> float:
        """1 / standard deviation of the latents: what diffusion multiplies them by."""
        latents = self.vae.encode(batch.target * 2 - 1).latent_dist.mode()  # type: ignore[operator]
        return 1 / float(latents.std())


class DecoderPretraining(WithoutDraw):
    """The VAE's decoder alone learns on, from latents that are off as those of a UNet are; the
    encoder, and with it every latent that was learned from, stays.

    ``noise``: the standard deviation of what is added, up to this share of the latents' own.
    """

    def __init__(self, vae: Any, noise: float = 0.2) -> None:
        super().__init__()
        self.vae, self.noise = vae.requires_grad_(False), noise
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)

    def forward(self, batch: Batch, draw: NoDraw) -> dict[str, Tensor]:
        picture = batch.target * 2 - 1
        with torch.no_grad():
            latent = self.vae.encode(picture).latent_dist.mode()
            spread = self.noise / self.vae.config.scaling_factor
            spread = spread * torch.rand(len(latent), 1, 1, 1, device=latent.device)
            latent = latent + spread * torch.randn_like(latent)
        return reconstruction(self.vae.decode(latent).sample, picture)


def reconstruction(decoded: Tensor, picture: Tensor) -> dict[str, Tensor]:
    """L1 and squared error of each row: decoded, picture (B, 3, H, W) in -1..1"""
    error = decoded.float() - picture
    return {"l1": error.abs().mean((1, 2, 3)), "l2": 2 * error.square().mean((1, 2, 3))}


@dataclass(frozen=True)
class Views:
    """All that an encoder is shown of a batch: its N marked scenes and subjects.

    pictures (N, 3, H, W) in 0..1 · classes (N, H, W), 0 background · covered (N, H, W), scribbled
    """

    pictures: Tensor
    classes: Tensor
    covered: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Views:
        request = batch.request
        assert request.mask is not None
        scenes = cls(request.marked(), batch.classes, request.mask)
        if request.subject is None:
            return scenes
        rows = torch.tensor(request.has_subject, device=request.mask.device)
        return cls(
            torch.cat([scenes.pictures, request.subject[rows]]),
            torch.cat([scenes.classes, batch.subject_classes[rows]]),
            torch.cat([scenes.covered, torch.zeros_like(request.mask[rows])]),
        )


COLORS = 2  # a side of a patch: what a subject looks like has to be in its tokens
COLORS_WEIGHT = 10.0  # their squared error is that much smaller than the other losses


class DenseHead(nn.Module):
    """Per patch: which objects it shows, how much of it the scribble covers, its colours."""

    def __init__(self, width: int, patches: int) -> None:
        super().__init__()
        self.patches = patches
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, len(CLASSES) + 2)
        self.colors = nn.Linear(width, 3 * COLORS**2)

    def forward(self, tokens: Tensor, views: Views) -> dict[str, Tensor]:
        """tokens (N, 1 + P², D), CLS first"""
        tokens, side = self.norm(tokens[:, 1:]), self.patches
        output, colors = self.linear(tokens).float(), self.colors(tokens).float()
        shares = F.adaptive_avg_pool2d(
            F.one_hot(views.classes, len(CLASSES) + 1).permute(0, 3, 1, 2).float(), side
        )
        shares = rearrange(shares, "b c h w -> b (h w) c")
        covered = F.adaptive_avg_pool2d(views.covered[:, None], side).flatten(1)
        by_class = -(shares * F.log_softmax(output[..., :-1], -1)).sum(-1)
        by_mark = F.binary_cross_entropy_with_logits(output[..., -1], covered, reduction="none")
        seen = rearrange(
            F.adaptive_avg_pool2d(views.pictures, side * COLORS),
            "b c (h p) (w q) -> b (h w) (c p q)", p=COLORS, q=COLORS,
        )  # fmt: skip
        by_color = COLORS_WEIGHT * (colors - seen).square().mean(-1)
        return {
            "classes": by_class.mean(-1),
            "covered": by_mark.mean(-1),
            "colors": by_color.mean(-1),
        }


class VisionPretraining(WithoutDraw):
    """A vision tower learns to see, patch by patch, what a picture shows."""

    def __init__(self, tower: nn.Module, preprocess: Preprocess, width: int, patches: int) -> None:
        super().__init__()
        self.tower, self.preprocess = tower, preprocess
        self.head = DenseHead(width, patches)

    def forward(self, batch: Batch, draw: NoDraw) -> dict[str, Tensor]:
        views = Views.of(batch)
        pixels = self.preprocess(views.pictures)
        return self.head(self.tower(pixel_values=pixels).last_hidden_state, views)


class CLIPPretraining(WithoutDraw):
    """Contrast of pictures and sentences, beside the dense labels on the projected tokens."""

    def __init__(self, clip: Any, tokenizer: Any, preprocess: Preprocess, patches: int) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.preprocess = clip, tokenizer, preprocess
        self.head = DenseHead(clip.config.projection_dim, patches)

    def forward(self, batch: Batch, draw: NoDraw) -> dict[str, Tensor]:
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


RESTATE = " Say it in full."


class VLLMPretraining(nn.Module):
    """The whole VLLM learns to answer: what the scribble means, questions, and half of the edits
    again in words that name everything.

    Any large VLLM can say an instruction again; one that cannot has no words to give to the edit
    tokens, however long these are trained.
    """

    def __init__(self, vllm: VLLM, seed: int = 0) -> None:
        super().__init__()
        self.vllm, self.seed = vllm, seed
        self.recipe = Recipe(stage="align", parts=(), generic_reply=0.5)

    def draw(self, step: int, batch_size: int) -> Draw:
        return Draw.make(self.seed, step, (batch_size, 1, 1, 1), self.recipe)

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        request, replies = batch.request, list(batch.replies)
        instructions = list(request.instructions)
        for row, restated in enumerate(draw.generic.tolist()):
            if restated and request.tasks[row] != "ask":
                instructions[row] += RESTATE
                replies[row] = batch.captions[row]
        request = replace(request, instructions=tuple(instructions))
        texts = prompts.prompts_for(request, draw.phrases)
        pixels = self.vllm.pictures(request.marked(), request.subject, request.has_subject)
        silent = [False] * len(texts)
        _, loss = self.vllm.score(texts, pixels, replies, edit_tokens=silent)
        return {"reply": loss}
