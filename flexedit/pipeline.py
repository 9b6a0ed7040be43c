"""One edit from Python, start to end: request → VLLM → bridge → adapter → UNet → picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from . import masks
from .errors import FlexEditError
from .model_folder import ModelFolder
from .models import vae as autoencoder
from .models.config import SystemConfig
from .models.diffusion import sampling
from .models.diffusion.conditioning import Branches
from .models.diffusion.unet import FlexEditUNet
from .models.parts import PictureTokens
from .models.turns import Turns
from .models.vllm import VLLM, Instruction
from .request import EditRequest
from .systems import system
from .systems.system import Embeds, Intent

ReplyMode = Literal["direct", "generate"]


@dataclass(frozen=True)
class EditResult:
    """picture (B, 3, H, W) in 0..1, of exactly the scene's size; replies and labels per row."""

    picture: Tensor
    marked: Tensor
    replies: tuple[str, ...]
    labels: tuple[str, ...]


class FlexEditPipeline:
    """A whole system on one device; each part is loaded when it is first needed.

    offload: the large parts take turns on the device · vllm_bits: 8 or 4, to keep the VLLM's
    language model so; it then stays on the device, as its weights are too costly to move.
    """

    def __init__(
        self,
        folder: ModelFolder,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        offload: bool = False,
        vllm_bits: int | None = None,
    ) -> None:
        self.folder, self.device = folder, usable_device(device)
        self.turns = Turns(self.device) if offload else None
        self.vllm_bits = vllm_bits
        self.dtype = dtype or (torch.float16 if self.device.type == "cuda" else torch.float32)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **memory: Any,
    ) -> FlexEditPipeline:
        """``path``: a model folder; None is the embedded ``flexedit-mini``."""
        return cls(ModelFolder(path) if path else ModelFolder.embedded(), device, dtype, **memory)

    # --- the parts ---

    @property
    def config(self) -> SystemConfig:
        return self.folder.config

    @cached_property
    def vllm(self) -> VLLM | Instruction:
        if self.vllm_bits:
            return self.folder.load_vllm(self.dtype, self.vllm_bits, self.device)
        return self._placed(self.folder.load_vllm(self.dtype))

    @cached_property
    def bridge(self) -> Any:
        return self._placed(self.folder.load_bridge(self.dtype))

    @cached_property
    def clip(self) -> Any:
        return self._placed(self.folder.load_clip(self.dtype))

    @cached_property
    def adapter(self) -> Any:
        adapter = self.folder.load_adapter(self.dtype)
        return None if adapter is None else adapter.to(self.device)

    @cached_property
    def interaction(self) -> Any:
        interaction = self.folder.load_interaction(self.dtype)
        return None if interaction is None else interaction.to(self.device)

    @cached_property
    def unet(self) -> FlexEditUNet:
        return self._placed(self.folder.load_unet(self.dtype))

    @cached_property
    def vae(self) -> Any:
        # in full precision: many VAEs overflow in half
        vae = self._placed(self.folder.load_vae(torch.float32))
        if self.turns:
            vae.enable_slicing()  # one picture of a batch at a time
        return vae

    def _placed(self, part: Any) -> Any:
        """A part that was read, where it waits for its work."""
        return part if self.turns else part.to(self.device)

    def now(self, part: Any) -> Any:
        """A part at work: on the device, if need be in place of another one."""
        stays = self.vllm_bits and isinstance(part, VLLM)
        return self.turns.take(part) if self.turns and not stays else part

    def load(self) -> None:
        """Loads now what an edit needs, not part by part in the first one."""
        looking = ("interaction", "adapter", "clip") if self.config.looks else ()
        for part in ("vllm", "bridge", *looking, "unet", "vae"):
            getattr(self, part)

    def see(self, picture: Tensor) -> PictureTokens:
        return self.now(self.clip)(picture)

    def encode(self, picture: Tensor) -> Tensor:
        return autoencoder.encode(self.now(self.vae), picture)

    # --- the stages ---

    def interpret(
        self,
        request: EditRequest,
        reply: ReplyMode = "generate",
        on_token: Callable[[int], None] | None = None,
    ) -> Intent:
        request = request.to(self.device)
        vllm = self.now(self.vllm)
        return system.interpret(vllm, request, reply, self.config.mark_alpha, on_token)

    @torch.inference_mode()
    def embed(self, intent: Intent) -> Embeds:
        return system.embed(self.now(self.bridge), intent)

    @torch.inference_mode()
    def condition(self, embeds: Embeds, subject_strength: float = 1.0) -> Branches:
        return system.condition(self, embeds, subject_strength)

    @torch.inference_mode()
    def __call__(
        self,
        request: EditRequest,
        *,
        reply: ReplyMode | None = None,
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
        system.require_editable(request)
        intent = self.interpret(request, reply or advice.reply)
        branches = self.condition(self.embed(intent), subject_strength)
        start = sampling.noise(tuple(branches.positive.scene_latent.shape), seed)
        latent = sampling.sample(
            system.predictor(self.now(self.unet), self.adapter, branches),
            start.to(self.device),
            self.config.diffusion,
            advice.num_steps if num_steps is None else num_steps,
            advice.edit_cfg if edit_cfg is None else edit_cfg,
            advice.scene_cfg if scene_cfg is None else scene_cfg,
            on_step,
        )
        decoded = autoencoder.decode(self.now(self.vae), latent)
        picture = masks.unpad(decoded, request.height, request.width)
        return EditResult(picture, intent.marked, intent.reading.replies, intent.reading.labels)


def usable_device(device: torch.device | str | None = None) -> torch.device:
    """``device``, or the GPU if there is one; raises FlexEditError for one that is not there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
        raise FlexEditError(
            f"The device {str(device)!r} cannot be used here ({error}). Choose cpu or cuda."
        ) from error
