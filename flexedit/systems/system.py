"""The road of an edit, the same for every system: interpret → embed → condition → predict.

What differs from system to system is which part stands in a slot. Whoever has the parts walks: the
pipeline, training and ComfyUI's nodes.
B batch, L tokens of the context, Q edit embeddings, D width of the context
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FlexEditError
from ..models.config import SystemConfig
from ..models.diffusion.conditioning import Branches, Conditioning
from ..models.diffusion.decoupled import Subject
from ..models.diffusion.sampling import Predict
from ..models.diffusion.unet import FlexEditUNet
from ..models.parts import Features, PictureTokens, Reading, Text
from ..models.vllm import VLLM, Instruction
from ..request import EditRequest

MOST_PIXELS = 2**23  # of a scene that is edited as a whole: 3840 × 2160 fits
BRANCH = tuple(field.name for field in fields(Conditioning))


@dataclass(frozen=True)
class Intent:
    """A request and what the VLLM made of it. marked: the marked scene (B, 3, H, W)."""

    request: EditRequest
    marked: Tensor
    reading: Reading


@dataclass(frozen=True)
class Embeds:
    """An intent, its edit embeddings e, and e∅, to which the edit is dropped."""

    intent: Intent
    text: Text
    null: Text


class Parts(Protocol):
    """What conditioning asks of whoever has the parts."""

    @property
    def config(self) -> SystemConfig: ...

    @property
    def interaction(self) -> Any:
        """None where a system has none."""

    @property
    def adapter(self) -> Any:
        """None where a system has none."""

    def see(self, picture: Tensor) -> PictureTokens:
        """picture (B, 3, H, W) as CLIP sees it, where interaction and adapter are"""

    def encode(self, picture: Tensor) -> Tensor:
        """picture (B, 3, H, W) → the VAE's latent (B, C, h, w), unscaled"""


def interpret(
    vllm: VLLM | Instruction,
    request: EditRequest,
    reply: str = "direct",
    mark_alpha: float = 0.5,
    on_token: Callable[[int], None] | None = None,
) -> Intent:
    """The VLLM reads the marked scene, the subject and the instruction."""
    marked = request.marked(mark_alpha)
    return Intent(request, marked, vllm.read(request, marked, reply, on_token))


def unused(
    config: SystemConfig, *, subject: bool = False, reply: str = "direct", strength: float = 1.0
) -> list[str]:
    """What to tell who gave a system what it does not use, or never learned: whether there is a
    subject, the mode of reply, λ.
    """
    adapter = config.adapter
    reads_subject = config.vllm is not None or (adapter is not None and adapter.reads_subject)
    has_strength = adapter is not None and adapter.attends_apart
    notes = {
        "The subject is not used: no part of this model looks at one.": subject
        and not reads_subject,
        "The reply mode generate changes nothing: this model has no VLLM that could speak.": (
            reply == "generate" and config.vllm is None
        ),
        "This model was taught to speak before it edits, and in the reply mode direct it does not: "
        "choose auto or generate (on the command line, no --reply).": (
            reply == "direct" and config.sampling.reply == "generate" and config.vllm is not None
        ),
        "The subject's strength changes nothing: this model attends to no subject apart.": (
            strength != 1.0 and not has_strength
        ),
    }
    return [note for note, is_true in notes.items() if is_true]


def embed(bridge: Any, intent: Intent) -> Embeds:
    """The bridge says it in the words that the UNet's cross-attention reads."""
    if "ask" in intent.request.tasks:
        raise FlexEditError(
            "This intent answers a question and carries no edit. Set the task to 'edit' or "
            "'segment', with a FlexEdit model's VLLM."
        )
    return Embeds(intent, *texts(bridge, intent.reading, intent.request.batch_size))


def texts(bridge: Any, reading: Reading, batch: int) -> tuple[Text, Text]:
    """The edit's text, and what it is dropped to: that of ""."""
    text, null, pooler = bridge(reading), bridge.null(batch), bridge.pooler
    if pooler is None:
        return text, null
    pooled, nothing = pooler.pooled(reading.instructions), pooler.pooled([""])
    return replace(text, pooled=pooled), replace(null, pooled=nothing.expand(batch, -1))


def require_editable(request: EditRequest) -> None:
    """Raises FlexEditError for a scene that no memory holds as a latent."""
    height, width = request.height, request.width
    if height * width > MOST_PIXELS:
        raise FlexEditError(
            f"The scene has {width}×{height} pixels, more than can be edited at once. Cut out a "
            "part with FlexEdit Crop (on the command line with --crop), or scale it down."
        )


def condition(parts: Parts, embeds: Embeds, strength: float | Tensor = 1.0) -> Branches:
    """The three branches of guidance, the same in training dropout and in sampling.

    strength: λ of the subject, of all rows or of each (B,).

    positive = (e, f2, λ; the scene's latent) · scene-only = (e∅, no subject; the scene's latent) ·
    negative = (e∅ as it is, no subject; a zero latent). Dropping the edit drops the subject.
    """
    intent, config = embeds.intent, parts.config
    require_editable(intent.request)
    e, null = embeds.text.e, embeds.null.e.to(embeds.text.e.dtype)
    latent = parts.encode(intent.marked if config.vae_input == "marked" else intent.request.scene)
    scene, residual = parts.see(intent.marked) if config.looks else None, None
    if config.interaction is not None:
        e, residual = parts.interaction(e, scene, tuple(latent.shape[-2:]))
    positive, scene_only = features(parts, e, null, intent, scene, strength)
    # what an adapter added to the context is zero where the edit is dropped
    null = F.pad(null, (0, 0, 0, positive.f1.shape[1] - null.shape[1]))
    f2, off = positive.f2, torch.zeros_like(positive.strength)
    pooled, nothing, sizes = embeds.text.pooled, embeds.null.pooled, None
    if pooled is not None:
        sizes = time_ids(intent.request).to(pooled.device)
    return Branches(
        Conditioning(positive.f1, f2, positive.strength, latent, residual, pooled, sizes),
        Conditioning(scene_only.f1, f2, off, latent, residual, nothing, sizes),
        Conditioning(null, f2, off, torch.zeros_like(latent), residual, nothing, sizes),
        positive.extra,
    )


def time_ids(request: EditRequest) -> Tensor:
    """What SDXL is told of a picture (B, 6): its size, its crop at the corner, the crop's."""
    height, width = request.height, request.width
    sizes = torch.tensor([height, width, 0, 0, height, width])
    return sizes.expand(request.batch_size, -1)


def features(
    parts: Parts,
    e: Tensor,
    null: Tensor,
    intent: Intent,
    scene: PictureTokens | None,
    strength: float | Tensor,
) -> tuple[Features, Features]:
    """What the adapter makes of e and of e∅ (B, Q, D); without one f1 is what it was given."""
    request, config = intent.request, parts.config.adapter
    rows = torch.as_tensor(strength, dtype=torch.float32).expand(request.batch_size).to(e.device)
    off = torch.zeros_like(rows)
    if config is None:
        return Features(e, None, off), Features(null, None, off)
    subject = None
    if request.subject is not None and config.reads_subject:
        subject = parts.see(request.subject)
    has_subject = torch.tensor(request.has_subject, device=e.device)
    adapter = parts.adapter  # now: making room for CLIP may have moved it

    def adapted(embeddings: Tensor, strength: Tensor) -> Features:
        return adapter(embeddings, intent.reading, scene, subject, has_subject, strength)

    return adapted(e, rows), adapted(null, off)


def predictor(unet: FlexEditUNet, adapter: Any, branches: Branches) -> Predict:
    """All three branches in one call of the UNet; the subject's keys and values are made once."""
    tensors: dict[str, Any] = {name: stacked(branches, name) for name in BRANCH}
    joined = Conditioning(**tensors)
    subject = Subject.of(joined, subject_layers(adapter))

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


def stacked(branches: Branches, name: str) -> Tensor | None:
    """One tensor of all branches, (3 · B, …); None if one of them has none."""
    tensors = [getattr(branch, name) for branch in branches]
    return None if any(tensor is None for tensor in tensors) else torch.cat(tensors)


def subject_layers(adapter: Any) -> Any:
    """An adapter's own keys and values for the subject, None if it has none."""
    return getattr(adapter, "subject", None)
