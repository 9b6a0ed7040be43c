"""The diffusion UNet that reads the scene's latent beside the noisy one, with decoupled
cross-attention (eq. 4 and 7).

B batch, L query positions, Q edit embeddings, T subject tokens, D context width, C layer width
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import FlexEditError
from .conditioning import Conditioning
from .decoupled import Context, DecoupledAttention, Subject, SubjectLayers


def build_unet(config: dict[str, Any]) -> Any:
    """The untrained diffusers UNet that the ``unet`` section of a system's config describes."""
    from diffusers import UNet2DConditionModel

    try:
        return UNet2DConditionModel.from_config(config)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise FlexEditError(
            f"The 'unet' section of flexedit.json describes no UNet ({error}). "
            "Download or export the model again."
        ) from error


def cross_attention_layers(unet: nn.Module) -> dict[str, int]:
    """Each cross-attention layer of a diffusers UNet, in its own order → the layer's width C."""
    return {
        name: module.get_submodule("to_q").out_features
        for name, module in unet.named_modules()
        if name.endswith(".attn2")
    }


class FlexEditUNet(nn.Module):
    """diffusers' UNet2DConditionModel, its cross-attention layers decoupled."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.unet = build_unet(config)
        for name, module in self.unet.named_modules():
            if name.endswith(".attn2"):
                module.set_processor(DecoupledAttention(name))

    @property
    def layers(self) -> dict[str, int]:
        return cross_attention_layers(self.unet)

    def checkpoint(self) -> dict[str, Tensor]:
        """All of it, under the checkpoint's names."""
        return self.state_dict()

    def load_checkpoint(self, tensors: Mapping[str, Tensor]) -> None:
        self.load_state_dict(tensors, assign=True)

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        layers: SubjectLayers | None = None,
        subject: Subject | None = None,
    ) -> Tensor:
        """noisy z_t (B, C, h, w), timesteps (B,) → prediction (B, C, h, w).

        layers: the subject's keys and values; without them the UNet's own serve it too (share_kv).
        A ``subject`` made once serves all steps of a run; without one it is made from f2 and λ.
        """
        subject = subject or Subject.of(conditioning, layers)
        sample = torch.cat([noisy, conditioning.scene_latent.to(noisy.dtype)], dim=1)
        context = Context(conditioning.f1.to(noisy.dtype), subject)
        besides = None
        if conditioning.pooled is not None:
            besides = {
                "text_embeds": conditioning.pooled.to(noisy.dtype),
                "time_ids": conditioning.time_ids,
            }
        with added(self.unet.conv_in, conditioning.residual):
            return self.unet(
                sample, timesteps, encoder_hidden_states=context, added_cond_kwargs=besides
            ).sample


@contextmanager
def added(layer: nn.Module, residual: Tensor | None) -> Iterator[None]:
    """A residual, if there is one, on top of what a layer gives."""
    if residual is None:
        yield
        return
    hook = layer.register_forward_hook(lambda _, inputs, output: output + residual.to(output))
    try:
        yield
    finally:
        hook.remove()
