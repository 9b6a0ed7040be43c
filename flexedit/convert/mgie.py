"""MGIE's released weights (7B) → a model folder.

Its files hold embeddings, head and edit head, and the UNet; the language model is LLaVA-1.1's.
Names and shapes: github.com/apple/ml-mgie, extract_ckpt.ipynb and mgie_llava.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import FlexEditError
from ..model_folder import ModelFolder
from ..models.config import SystemConfig
from ..prompts import IMAGE
from ..systems import preset
from .check import check_edit_tokens, check_trained
from .llava import (
    EMBED,
    HEAD,
    PROJECTOR,
    LLaVA,
    clip_tower,
    first_of,
    llava_sources,
    rows_of,
    vllm_config,
    vllm_plan,
    write_vllm,
)
from .smartedit import CLIP, VAE, with_path
from .sources import Source, Weights, require
from .writing import Planned, planned, take_over, unfinished, write_trained

PLACE = "docs-assets.developer.apple.com/ml-research/models/mgie/mgie_7b.tar.gz"
LICENCES = {
    "MGIE": "CC-BY-NC: not for commercial use; Apple's weights are converted, not handed on",
    "LLaVA-1.1": "for research only, under the terms of LLaMA, Vicuna and GPT-4",
    "CLIP": "MIT",
    "Stable Diffusion 1.5": "CreativeML OpenRAIL-M",
}
EDIT_HEAD = {  # theirs → ours
    "edit_head.llm2hid.": "mapper.enter.",
    "edit_head.mapper.": "mapper.transformer.",
    "edit_head.hid2feat.": "mapper.leave.",
}
QUERY, TOKENS = "edit_head.query", "emb"


def convert_mgie(
    out: Path,
    mgie: Path | None = None,
    llava: Path | None = None,
    llava_delta: Path | None = None,
    llama: Path | None = None,
    clip: Path | None = None,
    vae: Path | None = None,
    check: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> ModelFolder:
    """Writes the model folder ``out``, which needs none of the sources any more.

    mgie: the folder with mllm.pt and unet.pt · the others as for SmartEdit.
    Raises FlexEditError for sources that are missing, incomplete or do not belong together.
    """
    own = Source("--mgie", mgie, "MGIE's folder, with mllm.pt and unet.pt", PLACE)
    theirs = llava_sources(llava, llava_delta, llama)
    others = [with_path(CLIP, clip), with_path(VAE, vae)]
    require(own, *theirs, *others)
    assert mgie is not None and clip is not None and vae is not None
    mllm, unet = (Weights.read(mgie / name) for name in ("mllm.pt", "unet.pt"))
    with unfinished(out, [own, *theirs, *others]) as folder:
        language = LLaVA(theirs)
        check_rows(mllm, language)
        config = system_config(out.name, language.width, settings or {})
        trained = trained_plan(mllm, unet, language.num_pieces)
        check_trained(config, trained, language.config, str(mgie))
        rows = {name: planned(mllm, name) for name in (EMBED, HEAD)}
        weight, bias = map(language.planned, PROJECTOR)
        plan = vllm_plan(language.layers() | rows, (weight, bias), clip_tower(clip))
        for weights in (mllm, unet):
            weights.finish()
        language.finish(ignored=r"model\.embed_tokens\.weight|lm_head\.weight")
        assert config.vllm is not None
        # what it calls <im_patch> is where the picture is
        added = [IMAGE, "<im_start>", "<im_end>", *config.vllm.edit_tokens]
        num_pieces = language.num_pieces
        whole = vllm_config(language.config, clip, num_pieces + len(added), num_pieces)
        write_vllm(folder / "vllm", whole, plan, language, added, clip)
        write_trained(folder, trained, config.name, torch.float16)
        take_over(clip, folder / "clip")
        take_over(vae / "vae" if (vae / "vae").is_dir() else vae, folder / "vae")
        (folder / "flexedit.json").write_text(config.to_json(), encoding="utf-8")
        if check:
            check_edit_tokens(ModelFolder(folder))
    return ModelFolder(out)


def check_rows(mllm: Weights, llava: LLaVA) -> None:
    for name in (EMBED, HEAD):
        found, wanted = mllm.shape(name), (llava.num_pieces + 11, llava.width)
        if found != wanted:
            raise FlexEditError(
                f"{mllm.where}: {name} is {found}, but MGIE's beside this LLaVA is {wanted}. It is "
                "another system's file, or LLaVA is of another size (MGIE is a 7B)."
            )


def system_config(name: str, width: int, settings: Mapping[str, Any]) -> SystemConfig:
    own = {
        "name": name,
        "sources": {part: {"folder": part} for part in ("vllm", "clip", "vae")},
        "licences": LICENCES,
        "bridge": {"hidden_width": width},
    }
    return preset("mgie", own).override(settings)


def trained_plan(mllm: Weights, unet: Weights, num_pieces: int) -> dict[str, Planned]:
    """By the checkpoint's names"""
    return {
        **{f"unet.{name}": planned(unet, name) for name in unet},
        **edit_head_plan(mllm),
        **token_plan(mllm, num_pieces),
    }


def edit_head_plan(mllm: Weights) -> dict[str, Planned]:
    """Its tokens' own embeddings are ``emb`` where it is there, else what the model trained with:
    the last rows of the vocabulary.
    """
    plan = {"mapper.queries": first_of(planned(mllm, QUERY))}
    if TOKENS in mllm:
        plan["mapper.tokens"] = first_of(planned(mllm, TOKENS))
    else:
        plan["mapper.tokens"] = rows_of(planned(mllm, EMBED), -8)
    for name in mllm:
        for theirs, ours in EDIT_HEAD.items():
            if name.startswith(theirs):
                plan[ours + name.removeprefix(theirs)] = planned(mllm, name)
    return plan


def token_plan(mllm: Weights, num_pieces: int) -> dict[str, Planned]:
    """The rows of [IMG0] …"""
    rows = {"tokens.embed": EMBED, "tokens.lm_head": HEAD}
    return {ours: rows_of(planned(mllm, name), num_pieces + 3) for ours, name in rows.items()}
