"""What the released systems on LLaVA-1.1 have in common: their other sources, and the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..model_folder import CONFIG_FILE, ModelFolder
from ..models.config import SystemConfig
from ..systems import preset
from .check import check_edit_tokens, check_trained
from .llava import LLaVA, clip_tower, llava_sources, vllm_config, vllm_plan, write_vllm
from .sources import Source
from .writing import Plan, Planned, take_over, write_trained

LICENCES = {
    "LLaVA-1.1": "for research only, under the terms of LLaMA, Vicuna and GPT-4",
    "CLIP": "MIT",
    "Stable Diffusion 1.5": "CreativeML OpenRAIL-M",
}


@dataclass(frozen=True)
class Converted:
    """Where a release lies; its system's config; what it trained, by the checkpoint's names; its
    language model, by LLaMA's; the projector's weight and bias; the tokens that were added, of
    which pictures take the place of ``image``.
    """

    where: Path
    config: SystemConfig
    trained: Plan
    language: Plan
    projector: tuple[Planned, Planned]
    added: list[str]
    image: str


@dataclass(frozen=True)
class Others:
    """What a release takes from others, each a folder: LLaVA-1.1, merged, or its deltas and LLaMA;
    CLIP with both towers; a VAE of diffusers.
    """

    llava: Path | None = None
    llava_delta: Path | None = None
    llama: Path | None = None
    clip: Path | None = None
    vae: Path | None = None

    @property
    def of_llava(self) -> list[Source]:
        return llava_sources(self.llava, self.llava_delta, self.llama)

    @property
    def sources(self) -> list[Source]:
        where = "huggingface.co/openai/clip-vit-large-patch14"
        diffusion = "huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5, folder vae"
        return [
            *self.of_llava,
            Source("--clip", self.clip, "CLIP ViT-L/14, both towers", where),
            Source("--vae", self.vae, "Stable Diffusion 1.5's VAE, a diffusers folder", diffusion),
        ]


def system_config(
    system: str, name: str, licence: str, width: int, settings: Mapping[str, Any]
) -> SystemConfig:
    """A preset beside a language model of a width, with settings of one's own."""
    own = {
        "name": name,
        "sources": {part: {"folder": part} for part in ("vllm", "clip", "vae")},
        "licences": {"its own weights": licence} | LICENCES,
        "bridge": {"hidden_width": width},
    }
    return preset(system, own).override(settings)


def write_folder(folder: Path, made: Converted, llava: LLaVA, others: Others, check: bool) -> None:
    """All of a model folder; first what is small and may be wrong, at last what is large.

    Raises FlexEditError for what does not go together, and if the result does not say its edit
    tokens (``check``).
    """
    config, clip, vae = made.config, others.clip, others.vae
    assert clip is not None and vae is not None
    num_rows = llava.num_pieces + len(made.added)
    image = llava.num_pieces + made.added.index(made.image)
    whole = vllm_config(llava, clip, num_rows, image)
    check_trained(config, made.trained, whole.text_config, str(made.where))
    plan = vllm_plan(made.language, made.projector, clip_tower(clip))
    take_over(clip, folder / "clip")
    take_over(vae / "vae" if (vae / "vae").is_dir() else vae, folder / "vae")
    (folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
    model = ModelFolder(folder)
    model.load_vae()  # does it go with the UNet?
    write_vllm(folder / "vllm", whole, plan, llava, made.added, clip)
    write_trained(folder, made.trained, config.name, torch.float16)
    if check:
        check_edit_tokens(model)
