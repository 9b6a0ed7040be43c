"""One model folder in both worlds, diffusers and ComfyUI, on the same noise and conditioning; for
scripts that run `inside` a ComfyUI.
"""

from __future__ import annotations

from typing import Any

import inside

inside.enter()

import comfy.utils  # noqa: E402
import torch  # noqa: E402
from flexedit_pack.flexedit import pipeline, sampling  # noqa: E402
from flexedit_pack.flexedit.model_folder import ModelFolder  # noqa: E402
from flexedit_pack.flexedit.models.mea import Branches  # noqa: E402
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
        self.mea = ManagedPart("MEA", self.folder.load_mea, "fp32", self.config, encoder=False)
        self.shape = (batch, self.config.latent_channels, size, size)

    def branches(self, strength: float | list[float] = 1.0, num_tokens: int = 17) -> Branches:
        batch, width = self.shape[0], self.config.mea.width
        draw = torch.Generator().manual_seed(SEED)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw)

        return self.mea.read().model.branches(
            random(batch, self.config.context_length, width),
            random(batch, num_tokens, self.config.mea.clip_width),
            random(batch, num_tokens, self.config.mea.clip_width),
            torch.tensor(strength).expand(batch),
            random(*self.shape),
        )

    def diffusers(
        self, branches: Branches, steps: int, edit_cfg: float, scene_cfg: float
    ) -> Tensor:
        """The scaled latent that diffusers' UNet and the library's sampler come to."""
        if not hasattr(self, "unet"):
            self.unet = self.folder.load_unet()
        return sampling.sample(
            pipeline.predictor(self.unet, self.mea.read().model, branches),
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
