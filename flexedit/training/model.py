"""A system in training: the stages of an edit, with each loss beside the prediction it scores.

L = L_VLLM + L_diffusion (eq. 5); in stage 1 L_align in place of the diffusion term. Every loss is
a vector over rows, (B,); rows it does not concern have 0. B batch, K noises of one row, h × w the
latent's size
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .. import prompts
from ..model_folder import ModelFolder, build_adapter, build_bridge, build_interaction, load_vllm
from ..model_folder.keys import PARTS, check_shapes, of_slot, prefix_of, under
from ..models import vae as autoencoder
from ..models.bridges.bridge import Bridge
from ..models.clip import ImageEncoder, TextEncoder, TextEncoders
from ..models.diffusion import sampling
from ..models.diffusion.conditioning import Branches, Conditioning
from ..models.diffusion.unet import FlexEditUNet
from ..models.parts import SLOTS, PictureTokens, Reading, Text
from ..models.vllm import VLLM, lora
from ..systems import system
from ..systems.system import Embeds, Intent
from . import losses
from .batch import Batch
from .draws import Draw, Losses
from .trainer import Trainee

OWN_SLOTS = tuple(slot for slot in SLOTS if slot != "vllm")  # whose parts train as a whole


class TrainingModel(Trainee):
    """All parts of one system, and the losses of one batch."""

    former_names = {"qformer.": "bridge.", "mea.": "adapter.", "vllm.llava.": "vllm.model."}
    in_layers = ("vllm", "unet")

    def __init__(
        self,
        folder: ModelFolder,
        recipe: Losses,
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
        if config.vllm is not None:
            self.vllm = load_vllm(folder.part("vllm"), config.vllm, vllm_dtype, config.fit)
        self.bridge = build_bridge(folder)
        self.text: TextEncoder | TextEncoders
        self.text = getattr(self.bridge, "text", None) or folder.load_text()
        if isinstance(self.text, TextEncoders):
            self.bridge.pooler = self.text.second  # not one more
        self.clip: ImageEncoder | None = folder.load_clip() if config.looks else None
        self.vae = folder.load_vae()
        self.unet = FlexEditUNet(config.unet)
        self.adapter = build_adapter(config, self.unet.layers)
        if self.adapter is not None:
            self.adapter.start_from(self.unet.unet)
        self.interaction = build_interaction(config)
        self.helper = nn.Conv2d(config.unet["block_out_channels"][0], 2 * (num_classes + 1) + 1, 1)
        nn.init.zeros_(self.helper.weight)  # it guesses nothing yet and sends back no gradient
        self.schedule = sampling.training_schedule(config.diffusion)
        if isinstance(self.bridge, Bridge):
            with torch.no_grad():
                self.bridge.null_edit.copy_(self.text([""])[0])
        self.is_refining = False  # whether the perceptual loss counts in this step
        self._freeze()

    def _freeze(self) -> None:
        """Only what the recipe names trains, and the helper; of the VLLM LoRA and edit tokens."""
        for slot in OWN_SLOTS:
            part = getattr(self, slot)
            if part is not None:
                part.requires_grad_(slot in self.recipe.parts)
        frozen = [self.text, self.clip, self.vae, self.vllm]
        for part in (*frozen, *(getattr(self.bridge, name) for name in self.bridge.frozen)):
            if part is not None:
                part.requires_grad_(False).eval()
        if self.vllm is not None:
            assert self.config.vllm is not None
            lora.attach(self.vllm, self.config.vllm.lora)
            if "vllm" not in self.recipe.parts:
                self.vllm.requires_grad_(False).eval()

    def tensors(self) -> dict[str, Tensor]:
        """All that is trained so far, here or before, under the checkpoint's names."""
        tensors = {} if self.vllm is None else lora.checkpoint(self.vllm)
        for slot in OWN_SLOTS:
            part = getattr(self, slot)
            tensors |= {} if part is None else part.checkpoint()
        return tensors

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Starts from what an earlier stage trained; parts it did not have keep their start.

        Raises FlexEditError for a part that it had, but not whole.
        """
        tensors, own = dict(tensors), self.tensors()
        if not of_slot("adapter", tensors):  # e∅ stays what CLIP says; with one, what that knew
            tensors.pop("null.edit", None)
        shared = {prefix_of(key) for key in tensors} & {prefix_of(key) for key in own}
        tensors = {key: tensor for key, tensor in tensors.items() if prefix_of(key) in shared}
        expected = {key: tensor.shape for key, tensor in own.items() if prefix_of(key) in shared}
        check_shapes(expected, tensors, "What this training starts from")
        given = {slot: of_slot(slot, tensors) for slot in SLOTS}
        self.unet.load_state_dict(given["unet"])
        if self.adapter is not None:
            self.adapter.start_from(self.unet.unet)
        with torch.no_grad():
            for slot in PARTS:
                for key, tensor in given[slot].items():
                    own[key].copy_(tensor)
        if self.vllm is not None and given["vllm"]:
            lora.load(self.vllm, under("lora", tensors), under("tokens", tensors))

    def save_memory(self) -> None:
        if "unet" in self.recipe.parts:
            self.unet.unet.enable_gradient_checkpointing()
        if self.vllm is None or "vllm" not in self.recipe.parts:
            return
        model = self.vllm.model
        model.gradient_checkpointing_enable({"use_reentrant": False})
        for module in model.modules():  # transformers heeds it in layers that train, these alone
            if getattr(module, "gradient_checkpointing", False):
                module.training = True

    # --- what the road asks of whoever has the parts ---

    @torch.no_grad()
    def see(self, picture: Tensor) -> PictureTokens:
        assert self.clip is not None
        return self.clip(picture)

    @torch.no_grad()
    def encode(self, picture: Tensor) -> Tensor:
        return autoencoder.encode(self.vae, picture)

    # --- one step ---

    def draw(self, step: int, batch_size: int) -> Draw:
        self.is_refining = self.recipe.perceptual > 0 and step >= self.recipe.perceptual_from
        side = self.config.sampling.size // autoencoder.ratio(self.vae)
        shape = (batch_size, self.config.latent_channels, side, side)
        num_timesteps = self.config.diffusion.num_train_timesteps
        return Draw.make(self.seed, step, shape, self.recipe, num_timesteps)

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Losses by name, each (B,), already weighted; their sum over names is the row's loss."""
        embeds, scores = self.embed(batch, draw)
        if self.recipe.stage == "align":
            target = self.text(batch.captions)
            loss = losses.alignment(embeds.text.e, target, batch.has_caption)
            scores["align"] = self.recipe.align * loss
        else:
            scores |= self.diffusion(embeds, batch, draw)
        name = next(iter(scores))
        return scores | {name: scores[name] + self.felt()}

    def embed(self, batch: Batch, draw: Draw) -> tuple[Embeds, dict[str, Tensor]]:
        """Edit embeddings, and the loss of the VLLM's reply if that is trained."""
        request = batch.request
        marked = request.marked(self.config.mark_alpha)
        scores: dict[str, Tensor] = {}
        if self.vllm is None:
            reads = batch.captions if self.recipe.text == "caption" else request.instructions
            reading = Reading(tuple(reads), (), (), None)
        elif "hidden_states" in batch.features:
            known = batch.features["hidden_states"].float()
            reading = Reading(request.instructions, (), (), known)
        else:
            hidden, loss = self.read(self.vllm, batch, draw, marked)
            reading = Reading(request.instructions, (), (), hidden.float())
            if loss is not None:
                scores["reply"] = self.recipe.reply * loss
        intent = Intent(request, marked, reading)
        if "text" in batch.features:
            null = self.bridge.null(request.batch_size)
            return Embeds(intent, Text(batch.features["text"].float()), null), scores
        return Embeds(intent, *system.texts(self.bridge, reading, request.batch_size)), scores

    def read(
        self, vllm: VLLM, batch: Batch, draw: Draw, marked: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """H (B, N, D_llm), zeros for questions; the loss (B,) of what it says if that is learned"""
        request = batch.request
        asks = [task == "ask" for task in request.tasks]
        # nobody is taught to say the generic reply: it is what rows that know no other are given
        generic = [
            not ask and (bool(drawn) or reply == prompts.GENERIC_REPLY)
            for drawn, ask, reply in zip(draw.generic, asks, batch.replies, strict=True)
        ]
        hidden, loss = vllm.score(
            request.prompts(draw.phrases, vllm.prompt),
            vllm.pictures(marked, request.subject, request.has_subject),
            prompts.training_replies(batch.replies, generic, vllm.prompt.reply),
            edit_tokens=[not ask for ask in asks],
            forced=generic,
            with_loss="vllm" in self.recipe.parts,
        )
        assert hidden is not None
        return hidden, loss

    def diffusion(self, embeds: Embeds, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """L_diffusion (eq. 4) in the config's prediction type, and what the helpers lose; questions
        have no such terms.
        """
        parts = Remembering(self, embeds.intent, batch)
        branches = system.condition(parts, embeds)
        conditioning = choose(branches, draw.branch)
        noise, timesteps = draw.noise.flatten(0, 1), draw.timesteps.flatten()
        with torch.no_grad():
            clean = parts.encode(batch.target).float() * self.vae.config.scaling_factor
            clean = repeat(clean, "b ... -> (b k) ...", k=draw.timesteps.shape[1])
        noisy = self.schedule.add_noise(clean, noise, timesteps)
        prediction, features = self.predict(noisy, timesteps, conditioning)
        wanted = {
            "epsilon": lambda: noise,
            "sample": lambda: clean,
            "v_prediction": lambda: self.schedule.get_velocity(clean, noise, timesteps),
        }[self.config.diffusion.prediction_type]()
        recipe = self.recipe
        height, width = clean.shape[-2:]
        weight = losses.region_weight(batch.region, height, width, recipe.region)
        error = losses.diffusion(prediction, wanted, weight)
        scores = {"diffusion": recipe.diffusion * error * batch.has_target}
        if branches.extra:
            found = self.adapter.losses(branches.extra, self.see(batch.target))
            scores |= {
                name: recipe.own.get(name, 1.0) * loss * batch.has_target
                for name, loss in found.items()
            }
        if self.is_refining:
            loss = self.perceptual(prediction, noisy, timesteps, batch)
            scores["perceptual"] = recipe.perceptual * loss * batch.has_target
        if recipe.helper_classes or recipe.helper_result or recipe.helper_mask:
            rows = len(batch.captions)
            output = rearrange(self.helper(features).float(), "(b k) c h w -> b c k h w", b=rows)
            concerned = batch.has_target[:, None] * (draw.branch == 0)
            for name, loss in losses.helpers(output, batch, weight).items():
                loss = (loss.mean((2, 3)) * concerned).mean(1)
                scores[name] = getattr(recipe, name) * loss
        return scores

    def perceptual(
        self, prediction: Tensor, noisy: Tensor, timesteps: Tensor, batch: Batch
    ) -> Tensor:
        """How far the picture that a row's first prediction means is from the truth (B,)."""
        prediction, noisy, timesteps = (
            rearrange(tensor, "(b k) ... -> b k ...", b=len(batch.captions))[:, 0]
            for tensor in (prediction.float(), noisy, timesteps)
        )
        left = self.schedule.alphas_cumprod.to(noisy.device)[timesteps]
        clean = denoised(prediction, noisy, left, self.config.diffusion.prediction_type)
        assert self.clip is not None
        picture = self.vae.decode((clean / self.vae.config.scaling_factor).to(self.vae.dtype))
        seen = self.clip((picture.sample.float() / 2 + 0.5).clamp(0, 1))
        return losses.perceptual(seen, self.see(batch.target), left)

    @torch.no_grad()
    def remember(self, batch: Batch, first: int, with_vllm: bool = False) -> dict[str, Tensor]:
        """What no step changes of a batch, by name (B, …): what `Remembering` gives back, and H.

        first: the number of its first sample, by which the VLLM's replies and phrases are drawn
        """
        request, config = batch.request, self.config
        marked, found = request.marked(config.mark_alpha), {}
        if with_vllm:
            assert self.vllm is not None
            draw = Draw.make(self.seed, first, (len(batch.captions), 1, 1, 1), self.recipe)
            found["hidden_states"], _ = self.read(self.vllm, batch, draw, marked)
        if self.recipe.stage == "align":
            return found
        scene = marked if config.vae_input == "marked" else request.scene
        found |= {"scene_latent": self.encode(scene), "target_latent": self.encode(batch.target)}
        if config.looks:
            subject = (
                torch.zeros_like(request.scene) if request.subject is None else request.subject
            )
            for name, picture in (("scene", marked), ("subject", subject)):
                tokens = self.see(picture)
                found |= {f"{name}_projected": tokens.projected, f"{name}_raw": tokens.raw}
        if self.vllm is None and not isinstance(self.text, TextEncoders):
            reads = batch.captions if self.recipe.text == "caption" else request.instructions
            found["text"] = self.text(reads)
        return found

    def predict(
        self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """The UNet's prediction, and the features (B·K, C, h, w) that it is made from."""
        features: list[Tensor] = []
        hook = self.unet.unet.conv_norm_out.register_forward_pre_hook(
            lambda _, inputs: features.append(inputs[0])
        )
        layers = system.subject_layers(self.adapter)
        prediction = self.unet(noisy, timesteps, conditioning, layers)
        hook.remove()
        return prediction, features[0]


class Remembering:
    """A model's parts, for one batch: what was computed before is not computed again."""

    def __init__(self, model: TrainingModel, intent: Intent, batch: Batch) -> None:
        self.model, self.features = model, batch.features
        self.config, self.interaction, self.adapter = model.config, model.interaction, model.adapter
        self.names = {
            id(intent.marked): "scene",
            id(batch.request.scene): "scene",
            id(batch.request.subject): "subject",
            id(batch.target): "target",
        }

    def encode(self, picture: Tensor) -> Tensor:
        name = f"{self.names.get(id(picture))}_latent"
        known = self.features.get(name)
        return self.model.encode(picture) if known is None else known.float()

    def see(self, picture: Tensor) -> PictureTokens:
        name = self.names.get(id(picture))
        known = self.features.get(f"{name}_projected")
        if known is None:
            return self.model.see(picture)
        raw = self.features[f"{name}_raw"].float()
        side = math.isqrt(raw.shape[1])
        return PictureTokens(known.float(), raw, (side, side))


def denoised(prediction: Tensor, noisy: Tensor, left: Tensor, kind: str) -> Tensor:
    """The clean latent that a prediction means; left: ᾱ of each row (B,)"""
    if kind == "sample":
        return prediction
    signal, noise = (tensor.sqrt()[:, None, None, None] for tensor in (left, 1 - left))
    if kind == "epsilon":
        return (noisy - noise * prediction) / signal
    return signal * noisy - noise * prediction


def choose(branches: Branches, branch: Tensor) -> Conditioning:
    """Guidance dropout: each row takes the branches (B, K) it was dealt (`Draw`): B·K rows."""
    alone = replace(
        branches.positive, scene_latent=torch.zeros_like(branches.positive.scene_latent)
    )
    options = (branches.positive, branches.scene_only, branches.negative, alone)

    def pick(name: str) -> Any:
        tensors = [getattr(option, name) for option in options]
        if tensors[0] is None:
            return None
        stacked = rearrange(tensors, "n b ... -> b n ...")
        row = torch.arange(len(branch), device=branch.device)[:, None]
        return stacked[row, branch].flatten(0, 1)

    return Conditioning(**{name: pick(name) for name in system.BRANCH})
