"""One edit, stage by stage: request → VLLM → Q-Former → MEA → UNet → picture.

Training and the ComfyUI nodes call the same stages; only who holds the weights differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from . import masks, prompts, sampling
from .config import SystemConfig
from .errors import FlexEditError
from .model_folder import ModelFolder
from .models.chat_vllm import ChatVLLM
from .models.mea import MEA, Branches, Conditioning
from .models.unet import FlexEditUNet, Subject
from .models.vllm import VLLM, Reading
from .request import EditRequest

ReplyMode = Literal["direct", "generate"]


@dataclass(frozen=True)
class Intent:
    """A request and what the VLLM made of it. marked: the marked scene (B, 3, H, W)."""

    request: EditRequest
    marked: Tensor
    reading: Reading


@dataclass(frozen=True)
class Embeds:
    """A request and its edit embeddings e (B, Q, D)."""

    request: EditRequest
    marked: Tensor
    e: Tensor


@dataclass(frozen=True)
class EditResult:
    """picture (B, 3, H, W) in 0..1, of exactly the scene's size; replies and labels per row."""

    picture: Tensor
    marked: Tensor
    replies: tuple[str, ...]
    labels: tuple[str, ...]


def interpret(
    vllm: VLLM | ChatVLLM,
    request: EditRequest,
    reply: str = "direct",
    mark_alpha: float = 0.5,
    on_token: Callable[[int], None] | None = None,
) -> Intent:
    """The VLLM reads the marked scene. A question is always answered; it has no edit tokens.

    A stock VLLM always speaks: it names what is meant and says an edit's instruction anew.
    """
    marked = request.marked(mark_alpha)
    if isinstance(vllm, ChatVLLM):
        return Intent(request, marked, vllm.read(request, marked, on_token))
    texts = prompts.prompts_for(request)
    pixels = vllm.pictures(marked, request.subject, request.has_subject)
    device = next(vllm.parameters()).device
    if reply == "direct" and "ask" not in request.tasks:
        reading = vllm.direct(texts, pixels.to(device))
    elif reply in ("direct", "generate"):
        with_edit = bool(vllm.edit_ids) and "ask" not in request.tasks
        reading = vllm.generate(texts, pixels.to(device), with_edit=with_edit, on_token=on_token)
    else:
        raise FlexEditError(f"Unknown reply mode {reply!r}; choose direct or generate.")
    return Intent(request, marked, reading)


def edit_states(intent: Intent) -> Tensor:
    """H (B, N, D_llm) of an intent that carries an edit."""
    if intent.reading.hidden_states is None and "ask" not in intent.request.tasks:
        raise FlexEditError(
            "This intent comes from a stock VLLM, which has no edit tokens. Use the VLLM of "
            "FlexEdit Loader, or give reply and label to another graph."
        )
    if intent.reading.hidden_states is None:
        raise FlexEditError(
            "This intent answers a question and carries no edit. Set the task to 'edit' or "
            "'segment', with a FlexEdit model's VLLM."
        )
    return intent.reading.hidden_states


def scene_latent(vae: Any, picture: Tensor) -> Tensor:
    """picture (B, 3, H, W), padded to the VAE's ratio → latent (B, C, h, w): the mode, unscaled."""
    padded = masks.pad_to_multiple(picture, vae_ratio(vae))
    return vae.encode(padded.to(vae.dtype) * 2 - 1).latent_dist.mode()


def decode(vae: Any, latent: Tensor) -> Tensor:
    """Scaled latent (B, C, h, w) → picture (B, 3, 8h, 8w) in 0..1, still padded.

    Raises FlexEditError where numbers overflowed.
    """
    picture = vae.decode((latent / vae.config.scaling_factor).to(vae.dtype)).sample
    if not picture.isfinite().all():
        raise FlexEditError(
            "The edit came out as no picture: its numbers overflowed. Lower edit_cfg if it is "
            "high, or compute in a wider type (dtype=torch.bfloat16, in a shell --device cpu)."
        )
    return (picture.float() / 2 + 0.5).clamp(0, 1)


def vae_ratio(vae: Any) -> int:
    return 2 ** (len(vae.config.block_out_channels) - 1)


def row_strength(request: EditRequest, strength: float) -> Tensor:
    """λ per row (B,): 0, silently, for rows without a subject."""
    return torch.tensor(request.has_subject, dtype=torch.float32) * strength


def predictor(unet: FlexEditUNet, mea: MEA, branches: Branches) -> sampling.Predict:
    """All three branches in one call of the UNet; the subject's keys and values are made once."""
    f2s = [branch.f2 for branch in branches]
    joined = Conditioning(
        torch.cat([branch.f1 for branch in branches]),
        None if any(f2 is None for f2 in f2s) else torch.cat(f2s),  # type: ignore[arg-type]
        torch.cat([branch.strength for branch in branches]),
        torch.cat([branch.scene_latent for branch in branches]),
    )
    subject = Subject.of(joined, mea.subject)

    def predict(latent: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = unet(
            latent.repeat(3, 1, 1, 1).to(unet.unet.dtype),
            timestep.expand(3 * latent.shape[0]).to(latent.device),
            joined,
            subject=subject,
        )
        positive, scene_only, negative = output.float().chunk(3)
        return positive, scene_only, negative

    return predict


def usable_device(device: torch.device | str | None = None) -> torch.device:
    """``device``, or the GPU if there is one; raises FlexEditError for one that is not there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        raise FlexEditError(
            f"The device {str(device)!r} cannot be used here ({error}). Choose cpu or cuda."
        ) from error


class FlexEditPipeline:
    """A whole FlexEdit model on one device; each part is loaded when it is first needed."""

    def __init__(
        self,
        folder: ModelFolder,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.folder, self.device = folder, usable_device(device)
        self.dtype = dtype or (torch.float16 if self.device.type == "cuda" else torch.float32)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> FlexEditPipeline:
        """``path``: a model folder; None is the embedded ``flexedit-mini``."""
        return cls(ModelFolder(path) if path else ModelFolder.embedded(), device, dtype)

    @property
    def config(self) -> SystemConfig:
        return self.folder.config

    @cached_property
    def vllm(self) -> VLLM:
        return self.folder.load_vllm(self.dtype).to(self.device)

    @cached_property
    def qformer(self) -> Any:
        return self.folder.load_qformer(self.dtype).to(self.device)

    @cached_property
    def text(self) -> Any:
        return self.folder.load_text(self.dtype).to(self.device)

    @cached_property
    def clip(self) -> Any:
        return self.folder.load_clip(self.dtype).to(self.device)

    @cached_property
    def mea(self) -> MEA:
        return self.folder.load_mea(self.dtype).to(self.device)

    @cached_property
    def unet(self) -> FlexEditUNet:
        return self.folder.load_unet(self.dtype).to(self.device)

    @cached_property
    def vae(self) -> Any:
        # in full precision: many VAEs overflow in half
        return self.folder.load_vae(torch.float32).to(self.device)

    def load(self) -> None:
        """Loads now what an edit needs, not part by part in the first one."""
        reads = ("vllm", "qformer") if self.config.has_vllm else ("text",)
        for part in (*reads, "clip", "mea", "unet", "vae"):
            getattr(self, part)

    def interpret(
        self,
        request: EditRequest,
        reply: ReplyMode = "generate",
        on_token: Callable[[int], None] | None = None,
    ) -> Intent:
        return interpret(
            self.vllm, request.to(self.device), reply, self.config.mark_alpha, on_token
        )

    @torch.inference_mode()
    def embed(
        self, request: EditRequest, reply: ReplyMode = "direct"
    ) -> tuple[Embeds, Sequence[str], Sequence[str]]:
        """→ edit embeddings, replies, labels; by VLLM and Q-Former, or by the text encoder."""
        request = request.to(self.device)
        if not self.config.has_vllm:
            e = self.text(request.instructions)
            empty = ("",) * request.batch_size
            return Embeds(request, request.marked(self.config.mark_alpha), e), empty, empty
        intent = self.interpret(request, reply)
        e = self.qformer(edit_states(intent))
        return Embeds(request, intent.marked, e), intent.reading.replies, intent.reading.labels

    @torch.inference_mode()
    def condition(self, embeds: Embeds, subject_strength: float = 1.0) -> Branches:
        request = embeds.request
        strength = row_strength(request, subject_strength).to(self.device)
        subject = None if request.subject is None else self.clip(request.subject)
        seen = embeds.marked if self.config.vae_input == "marked" else request.scene
        return self.mea.branches(
            embeds.e, self.clip(embeds.marked), subject, strength, scene_latent(self.vae, seen)
        )

    @torch.inference_mode()
    def __call__(
        self,
        request: EditRequest,
        *,
        reply: ReplyMode = "direct",
        seed: int | Sequence[int] = 0,
        num_steps: int | None = None,
        edit_cfg: float | None = None,
        scene_cfg: float | None = None,
        subject_strength: float = 1.0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> EditResult:
        """Edits every row of the request; what is None is taken from the model's own advice.

        ``seed``: of the whole batch, or one per row.
        """
        advice = self.config.sampling
        embeds, replies, labels = self.embed(request, reply)
        branches = self.condition(embeds, subject_strength)
        start = sampling.noise(tuple(branches.positive.scene_latent.shape), seed)
        latent = sampling.sample(
            predictor(self.unet, self.mea, branches),
            start.to(self.device),
            self.config.diffusion,
            advice.num_steps if num_steps is None else num_steps,
            advice.edit_cfg if edit_cfg is None else edit_cfg,
            advice.scene_cfg if scene_cfg is None else scene_cfg,
            on_step,
        )
        picture = masks.unpad(decode(self.vae, latent), request.height, request.width)
        return EditResult(picture, embeds.marked, tuple(replies), tuple(labels))
