"""MGIE's released weights (7B) → a model folder.

Its files hold embeddings, head and edit head, and the UNet; the language model is LLaVA-1.1's.
Names and shapes: github.com/apple/ml-mgie, extract_ckpt.ipynb and mgie_llava.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FlexEditError
from ..model_folder import ModelFolder
from ..prompts import IMAGE
from .llava import EMBED, HEAD, PROJECTOR, LLaVA, first_of, rows_of
from .released import Converted, Others, system_config, write_folder
from .sources import Source, Weights, require
from .writing import Planned, planned, unfinished

PLACE = "docs-assets.developer.apple.com/ml-research/models/mgie/mgie_7b.tar.gz"
LICENCE = "CC-BY-NC: not for commercial use; convert them, do not hand them on"
EDIT_HEAD = {  # theirs → ours
    "edit_head.llm2hid.": "mapper.enter.",
    "edit_head.mapper.": "mapper.transformer.",
    "edit_head.hid2feat.": "mapper.leave.",
}
QUERY, TOKENS = "edit_head.query", "emb"


def convert_mgie(
    out: Path,
    mgie: Path | None = None,
    check: bool = True,
    settings: Mapping[str, Any] | None = None,
    **others: Path | None,
) -> ModelFolder:
    """Writes the model folder ``out``, which needs none of the sources any more.

    mgie: the folder with mllm.pt and unet.pt · the rest as for SmartEdit.
    Raises FlexEditError for sources that are missing, incomplete or do not belong together.
    """
    own = Source("--mgie", mgie, "MGIE's folder, with mllm.pt and unet.pt", PLACE)
    parts = Others(**others)
    require(own, *parts.sources)
    assert mgie is not None
    mllm, unet = (Weights.read(mgie / name) for name in ("mllm.pt", "unet.pt"))
    with unfinished(out, [own, *parts.sources]) as folder:
        language = LLaVA(parts.of_llava)
        check_rows(mllm, language)
        config = system_config("mgie", out.name, LICENCE, language.width, settings or {})
        assert config.vllm is not None
        weight, bias = map(language.planned, PROJECTOR)
        made = Converted(
            mgie,
            config,
            trained_plan(mllm, unet, language.num_pieces),
            language_plan(mllm, language),
            (weight, bias),
            # what it calls <im_patch> is where the picture is
            [IMAGE, "<im_start>", "<im_end>", *config.vllm.edit_tokens],
            IMAGE,
        )
        finish(mllm, unet, language)
        write_folder(folder, made, language, parts, check)
    return ModelFolder(out)


def check_rows(mllm: Weights, llava: LLaVA) -> None:
    for name in (EMBED, HEAD):
        found, wanted = mllm.shape(name), (llava.num_pieces + 11, llava.width)
        if found != wanted:
            raise FlexEditError(
                f"{mllm.where}: {name} is {found}, but MGIE's beside this LLaVA is {wanted}. It is "
                "another system's file, or LLaVA is of another size (MGIE is a 7B)."
            )


def language_plan(mllm: Weights, llava: LLaVA) -> dict[str, Planned]:
    """By LLaMA's names: layers from LLaVA, the rows of the vocabulary from MGIE."""
    return llava.layers() | {name: planned(mllm, name) for name in (EMBED, HEAD)}


def finish(mllm: Weights, unet: Weights, llava: LLaVA) -> None:
    """Raises FlexEditError for tensors that nobody planned for, but rows that MGIE has."""
    mllm.finish()
    unet.finish()
    llava.finish(ignored=r"model\.embed_tokens\.weight|lm_head\.weight")


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
