"""One model folder in both worlds, diffusers and ComfyUI, on the same noise and conditioning; for
scripts that run `inside` a ComfyUI.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import inside

inside.enter()

import comfy.utils  # noqa: E402
import torch  # noqa: E402
from flexedit_pack.flexedit.model_folder import ModelFolder  # noqa: E402
from flexedit_pack.flexedit.models.diffusion import sampling  # noqa: E402
from flexedit_pack.flexedit.models.diffusion.conditioning import Branches  # noqa: E402
from flexedit_pack.flexedit.models.parts import PictureTokens, Reading, Text  # noqa: E402
from flexedit_pack.flexedit.request import EditRequest  # noqa: E402
from flexedit_pack.flexedit.systems import system  # noqa: E402
from flexedit_pack.nodes.runtime import conditioning, guider  # noqa: E402
from flexedit_pack.nodes.runtime.parts import ManagedPart  # noqa: E402
from flexedit_pack.nodes.runtime.unet import load_unet  # noqa: E402
from torch import Tensor  # noqa: E402

comfy.utils.PROGRESS_BAR_ENABLED = False
SEED = 3


class Model:
    """One model folder in both worlds, and random conditioning of its widths."""

    def __init__(self, path: str, size: int = 16, batch: int = 1) -> None:
        self.folder = ModelFolder(path)
        self.config = self.folder.config
        load = partial(conditioning.Conditioner, self.folder)
        self.mea = ManagedPart("MEA", load, "fp32", self.config, encoder=False)
        self.shape = (batch, self.config.latent_channels, size, size)

    @property
    def adapter(self) -> Any:
        return self.mea.read().model.adapter

    @property
    def interaction(self) -> Any:
        return self.mea.read().model.interaction

    def see(self, picture: Tensor) -> PictureTokens:
        """Random tokens, others for each picture."""
        adapter, interaction = self.config.adapter, self.config.interaction
        widths = [
            adapter.clip_width if adapter else 1,
            interaction.vision_width if interaction else 1,
        ]
        projected, raw = (
            torch.randn(self.shape[0], self.num_tokens - index, width, generator=self.draw)
            for index, width in enumerate(widths)
        )
        return PictureTokens(projected, raw, (1, self.num_tokens - 1))

    def encode(self, picture: Tensor) -> Tensor:
        return torch.randn(self.shape, generator=self.draw)

    def branches(self, strength: float | list[float] = 1.0, num_tokens: int = 17) -> Branches:
        """From random embeddings, pictures and latents."""
        self.draw, self.num_tokens = torch.Generator().manual_seed(SEED), num_tokens
        batch, bridge = self.shape[0], self.config.bridge
        e = torch.randn(batch, bridge.num_embeddings, bridge.width, generator=self.draw)
        null = torch.randn(bridge.num_embeddings, bridge.width, generator=self.draw)
        hidden_states = torch.randn(
            batch, 3, getattr(bridge, "hidden_width", 1), generator=self.draw
        )
        picture = torch.zeros(batch, 3, 8, 8)
        request = EditRequest.create(picture, "add this", subject=picture)
        intent = system.Intent(
            request, picture, Reading(request.instructions, (), (), hidden_states)
        )
        pooled, nothing = None, None
        if self.config.pools:
            pooled, nothing = torch.randn(2, batch, self.config.pooled_width, generator=self.draw)
        null = null.expand(batch, -1, -1)
        embeds = system.Embeds(intent, Text(e, pooled), Text(null, nothing))
        with torch.no_grad():
            return system.condition(self, embeds, torch.tensor(strength))

    def diffusers(
        self, branches: Branches, steps: int, edit_cfg: float, scene_cfg: float
    ) -> Tensor:
        """The scaled latent that diffusers' UNet and the library's sampler come to."""
        if not hasattr(self, "unet"):
            self.unet = self.folder.load_unet()
        return sampling.sample(
            system.predictor(self.unet, self.adapter, branches),
            sampling.noise(self.shape, SEED),
            self.config.diffusion,
            steps,
            edit_cfg,
            scene_cfg,
        )

    def comfyui(self, branches: Branches, steps: int, edit_cfg: float, scene_cfg: float) -> Tensor:
        """The same by ComfyUI's UNet and the node's sampler."""
        if not hasattr(self, "patcher"):
            self.patcher = load_unet(self.folder, self.mea, "fp32")
        latent = sample(self.patcher, branches, self.shape, steps, edit_cfg, scene_cfg)
        return latent * self.patcher.model.latent_format.scale_factor


def sample(
    patcher: Any,
    branches: Branches,
    shape: tuple[int, ...],
    steps: int = 4,
    edit_cfg: float = 7.5,
    scene_cfg: float = 1.5,
    **changes: Any,
) -> Tensor:
    """What FlexEdit KSampler does; its latent shows that denoise 1.0 starts from pure noise."""
    settings = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "seed": SEED}
    settings |= {"latent": {"samples": torch.ones(shape)}} | changes
    return guider.sample(
        patcher,
        *conditioning.pack(branches),
        steps=steps,
        edit_cfg=edit_cfg,
        scene_cfg=scene_cfg,
        **settings,
    )
