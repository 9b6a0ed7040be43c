"""A system in training: the stages of an edit, with each loss beside the prediction it scores.

L = L_VLLM + L_diffusion (eq. 5); in stage 1 L_align in place of the diffusion term. Every loss is
a vector over rows, (B,); rows it does not concern have 0. B batch, K noises of one row, h × w the
latent's size
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from .. import prompts, sampling
from ..model_folder import ModelFolder, load_stock_vllm, trained_tensors
from ..model_folder.keys import PART_OF, under
from ..models.clip import ImageEncoder, TextEncoder
from ..models.mea import MEA, Branches, Conditioning
from ..models.qformer import QFormer
from ..models.unet import FlexEditUNet
from ..models.vllm import VLLM
from ..pipeline import row_strength, scene_latent, vae_ratio
from . import lora
from .batch import Batch

# Latent pixels around the edited region that weigh as it does. Where it ends is what a prediction
# has to guess: a weight that ended there too would make it guess too wide.
MARGIN = 2
PARTS = tuple(dict.fromkeys(PART_OF.values()))  # of the VLLM its LoRA and edit tokens


@dataclass(frozen=True)
class Draw:
    """All that is random in one step, drawn for the global batch so that processes agree.

    noise (B, K, C, h, w) · timesteps, branch (B, K); 0 positive, 1 scene-only, 2 negative ·
    generic (B,): which edits are answered with the generic reply · positional (B,): which phrase
    """

    noise: Tensor
    timesteps: Tensor
    branch: Tensor
    generic: Tensor
    positional: Tensor

    @classmethod
    def make(
        cls,
        seed: int,
        step: int,
        shape: tuple[int, ...],
        recipe: Recipe,
        num_train_timesteps: int = 1000,
    ) -> Draw:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        batch, *latent = shape
        noises = (batch, recipe.noises)
        choice = torch.rand(noises, generator=generator)
        return cls(
            noise=torch.randn((*noises, *latent), generator=generator),
            timesteps=torch.randint(num_train_timesteps, noises, generator=generator),
            branch=(choice < recipe.drop_edit + recipe.drop_scene).long()
            + (choice < recipe.drop_scene).long(),
            generic=torch.rand(batch, generator=generator) < recipe.generic_reply,
            positional=torch.randint(
                len(prompts.POSITIONAL_PARAPHRASES), (batch,), generator=generator
            ),
        )

    @property
    def phrases(self) -> list[str]:
        return [prompts.POSITIONAL_PARAPHRASES[index] for index in self.positional.tolist()]

    def rows(self, start: int, stop: int) -> Draw:
        return Draw(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def to(self, device: torch.device) -> Draw:
        return Draw(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Recipe:
    """What a stage trains, and how much each loss counts.

    ``noises`` is K: on how many noises and timesteps a row is scored; what comes before the UNet is
    computed once for all of them. ``text`` is what a system without a VLLM reads: words that name
    everything, or those that a person said. ``region`` weighs latent pixels in and around the
    edited region (others: 1). The helpers are for training only: read off the UNet's last features,
    the classes of scene and result and the mask of what is meant teach it what it looks at and what
    it has to draw; the saved model has no such head.
    """

    stage: Literal["align", "joint"]
    parts: tuple[str, ...]  # of PARTS
    drop_edit: float = 0.05  # guidance dropout: the scene-only branch
    drop_scene: float = 0.05  # guidance dropout: the negative branch
    noises: int = 1
    text: Literal["caption", "instruction"] = "caption"
    generic_reply: float = 0.5  # how many edits are answered with the reply ``direct`` forces
    reply: float = 1.0
    diffusion: float = 1.0
    align: float = 1.0
    region: float = 1.0
    helper_classes: float = 0.0
    helper_result: float = 0.0
    helper_mask: float = 0.0


class System(nn.Module):
    """All parts of one system, and the losses of one batch."""

    def __init__(
        self,
        folder: ModelFolder,
        recipe: Recipe,
        num_classes: int,
        seed: int = 0,
        vllm_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Fresh trainable parts, in float32, beside the folder's frozen ones.

        ``vllm_dtype``: of the VLLM without its LoRA and edit tokens, by far the largest part.
        """
        super().__init__()
        self.recipe, self.seed = recipe, seed
        config = self.config = folder.config
        self.vllm: VLLM | None = None
        self.qformer: QFormer | None = None
        if config.has_vllm:
            assert config.qformer is not None
            self.vllm = load_stock_vllm(
                folder.part("vllm"),
                vllm_dtype,
                num_edit_tokens=config.num_edit_tokens,
                hidden_state=config.hidden_state,
            )
            self.qformer = QFormer(config.qformer)
        self.text: TextEncoder = folder.load_text()
        self.clip: ImageEncoder = folder.load_clip()
        self.vae = folder.load_vae()
        self.unet = FlexEditUNet(config.unet)
        self.mea = MEA(config.mea, config.context_length, self.unet.layers)
        self.mea.start_from(self.unet.unet)
        self.helper = nn.Conv2d(config.unet["block_out_channels"][0], 2 * (num_classes + 1) + 1, 1)
        nn.init.zeros_(self.helper.weight)  # it guesses nothing yet and sends back no gradient
        self.schedule = sampling.training_schedule(config.diffusion)
        for frozen in (self.text, self.clip, self.vae, self.vllm):
            if frozen is not None:
                frozen.requires_grad_(False).eval()
        with torch.no_grad():
            self.mea.null_edit.copy_(self.text([""])[0])
        for part in ("unet", "mea", "qformer", "helper"):
            module = getattr(self, part)
            if module is not None:
                module.requires_grad_(part in recipe.parts or part == "helper")
        if self.vllm is not None:
            assert config.lora is not None
            lora.attach(self.vllm, config.lora)
            if "vllm" not in recipe.parts:
                self.vllm.requires_grad_(False).eval()

    def tensors(self) -> dict[str, Tensor]:
        """All that is trained so far, here or before, under the checkpoint's names."""
        tokens, low_rank = None, None
        if self.vllm is not None:
            tokens, low_rank = self.vllm.token_rows(), lora.weights(self.vllm)
        return trained_tensors(self.unet, self.mea, self.qformer, tokens, low_rank)

    def take_up(self, tensors: Mapping[str, Tensor]) -> None:
        """Starts from what an earlier stage trained; parts it did not have keep their start."""
        parts = {prefix: under(prefix, tensors) for prefix in PART_OF}
        self.unet.unet.load_state_dict(parts["unet"])
        if parts["mea"]:
            self.mea.load_state_dict(parts["mea"] | {"null_edit": tensors["null.edit"]})
        else:
            self.mea.start_from(self.unet.unet)
        if self.qformer is not None and parts["qformer"]:
            self.qformer.load_state_dict(parts["qformer"])
        if self.vllm is not None and parts["lora"]:
            lora.load(self.vllm, parts["lora"], parts["tokens"])

    def draw(self, step: int, batch_size: int) -> Draw:
        side = self.config.sampling.size // vae_ratio(self.vae)
        shape = (batch_size, self.config.latent_channels, side, side)
        num_timesteps = self.config.diffusion.num_train_timesteps
        return Draw.make(self.seed, step, shape, self.recipe, num_timesteps)

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Losses by name, each (B,), already weighted; their sum over names is the row's loss."""
        losses: dict[str, Tensor] = {}
        e = self.embed(batch, draw, losses)
        if self.recipe.stage == "align":
            losses["align"] = self.recipe.align * self.alignment(e, batch)
        else:
            self.diffusion(e, batch, draw, losses)
        return losses

    def embed(self, batch: Batch, draw: Draw, losses: dict[str, Tensor]) -> Tensor:
        """Edit embeddings e (B, Q, D); scores the VLLM's reply on the way."""
        if self.vllm is None:
            read = self.recipe.text == "caption"
            return self.text(batch.captions if read else batch.request.instructions)
        assert self.qformer is not None
        request = batch.request
        marked = request.marked(self.config.mark_alpha)
        texts = prompts.prompts_for(request, draw.phrases)
        asks = [task == "ask" for task in request.tasks]
        # nobody is taught to say the generic reply: it is what rows that know no other are given
        generic = [
            not ask and (bool(drawn) or reply == prompts.GENERIC_REPLY)
            for drawn, ask, reply in zip(draw.generic, asks, batch.replies, strict=True)
        ]
        replies = prompts.training_replies(batch.replies, generic)
        sequences = self.vllm.tokenize(
            texts, replies, edit_tokens=[not ask for ask in asks], forced=generic, end=True
        )
        pixels = self.vllm.pictures(marked, request.subject, request.has_subject)
        states = self.vllm.states(sequences, pixels)
        if "vllm" in self.recipe.parts:
            losses["reply"] = self.recipe.reply * self.vllm.reply_loss(sequences, states)
        return self.qformer(self.vllm.edit_states(sequences, states).float())

    def alignment(self, e: Tensor, batch: Batch) -> Tensor:
        """Stage 1: distance of e to CLIP's text embedding of the caption, per row with an edit."""
        target = self.text(batch.captions)
        return (e - target).square().mean((1, 2)) * batch.has_target

    def condition(self, e: Tensor, batch: Batch) -> Branches:
        """The three branches of guidance, from e and the pictures."""
        request = batch.request
        marked = request.marked(self.config.mark_alpha)
        with torch.no_grad():
            scene_tokens = self.clip(marked)
            subject = None if request.subject is None else self.clip(request.subject)
            seen = marked if self.config.vae_input == "marked" else request.scene
            latent = scene_latent(self.vae, seen)
        strength = row_strength(request, 1.0).to(e.device)
        return self.mea.branches(e, scene_tokens, subject, strength, latent)

    def diffusion(self, e: Tensor, batch: Batch, draw: Draw, losses: dict[str, Tensor]) -> None:
        """L_diffusion (eq. 4) in the config's prediction type; questions have no such term."""
        conditioning = choose(self.condition(e, batch), draw.branch)
        noise, timesteps = draw.noise.flatten(0, 1), draw.timesteps.flatten()
        num_noises = draw.timesteps.shape[1]
        with torch.no_grad():
            clean = scene_latent(self.vae, batch.target).float() * self.vae.config.scaling_factor
            clean = repeat(clean, "b ... -> (b k) ...", k=num_noises)
        noisy = self.schedule.add_noise(clean, noise, timesteps)
        features: list[Tensor] = []
        hook = self.unet.unet.conv_norm_out.register_forward_pre_hook(
            lambda _, inputs: features.append(inputs[0])
        )
        prediction = self.unet(noisy, timesteps, conditioning, self.mea)
        hook.remove()
        wanted = {
            "epsilon": lambda: noise,
            "sample": lambda: clean,
            "v_prediction": lambda: self.schedule.get_velocity(clean, noise, timesteps),
        }[self.config.diffusion.prediction_type]()
        height, width = clean.shape[-2:]
        region = F.adaptive_max_pool2d(batch.region[:, None], (height, width))
        region = F.max_pool2d(region, 2 * MARGIN + 1, 1, MARGIN)
        weight = 1 + (self.recipe.region - 1) * region  # (B, 1, h, w)
        error = (prediction.float() - wanted).square()
        error = rearrange(error, "(b k) ... -> b k ...", k=num_noises) * weight[:, None]
        error = error.mean((1, 2, 3, 4))
        losses["diffusion"] = self.recipe.diffusion * error * batch.has_target
        if self.recipe.helper_classes or self.recipe.helper_result or self.recipe.helper_mask:
            known = batch.has_target[:, None] * (draw.branch == 0)
            for name, loss in self.help(features[0], batch, weight).items():
                losses[name] = getattr(self.recipe, name) * (loss.mean((2, 3)) * known).mean(1)

    def help(self, features: Tensor, batch: Batch, weight: Tensor) -> dict[str, Tensor]:
        """Losses (B, K, h, w) of what the UNet's last features (B·K, C, h, w) say: what is where in
        the scene, what in the result (``weight`` (B, 1, h, w) counts the edited region more), and
        what is meant.
        """
        height, width = features.shape[-2:]
        rows = len(batch.captions)
        output = rearrange(self.helper(features).float(), "(b k) c h w -> b c k h w", b=rows)
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


def choose(branches: Branches, branch: Tensor) -> Conditioning:
    """Guidance dropout: each row takes the branches (B, K) it was dealt (0, 1 or 2): B·K rows."""

    def pick(tensors: list[Tensor]) -> Tensor:
        stacked = rearrange(tensors, "n b ... -> b n ...")
        row = torch.arange(len(branch), device=branch.device)[:, None]
        return stacked[row, branch].flatten(0, 1)

    options: list[Any] = list(branches)
    f2 = options[0].f2
    return Conditioning(
        pick([option.f1 for option in options]),
        None if f2 is None else repeat(f2, "b ... -> (b k) ...", k=branch.shape[1]),
        pick([option.strength for option in options]),
        pick([option.scene_latent for option in options]),
    )
