"""SmartEdit's released weights (7B, 13B) → a model folder.

Its files hold the whole language model with LoRA beside it, Q-Former, UNet and BIM; of LLaVA-1.1 it
takes the vocabulary. Names and shapes: github.com/TencentARC/SmartEdit, train/DS_SmartEdit_train.py
and model/DS_SmartEdit_model.py. V pieces of the vocabulary
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FlexEditError
from ..model_folder import ModelFolder, load_text_encoder
from ..model_folder.weights import read_config
from ..models.config import SystemConfig
from ..prompts import IMAGE
from . import released
from .llava import (
    EMBED,
    HEAD,
    NORM,
    LLaVA,
    first_of,
    joined,
    rows_of,
    zeros,
)
from .released import Converted, Others, write_folder
from .sources import Source, Weights, require
from .writing import Planned, here, planned, unfinished

PLACE = "huggingface.co/TencentARC/SmartEdit-7B (or -13B)"
FILES = {
    "llm": "LLM-*/adapter_model.bin",
    "qformer": "embeddings_qformer/checkpoint-*_embeddings_qformer.bin",
    "unet": "unet-*/adapter_model.bin",
    "bim": "modulate-*/adapter_model.bin",
}
LICENCE = "none is named in its repository: ask its makers before you pass this on"
LLM = "model.base_model.model."
EMBED_ROWS = LLM + "embed_tokens.weight"
# made anew; and a second copy of the embeddings, which its own code drops as well
CONSTANTS = rf".*inv_freq|.*position_ids|{re.escape(EMBED_ROWS)}"
BIM = (  # theirs → ours
    (r"modulate_head\.", "from_edit."),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "frequencies"),
    (r"dimension_reduction_head_zeroconv\.", "to_residual."),
    (r"dimension_reduction_head_qformer_out\.", "to_edit."),
    (r"modulate_transformer\.final_attn_token_to_image\.", "last."),
    (r"modulate_transformer\.norm_final_attn\.", "norm."),
    (r"modulate_transformer\.layers\.", "blocks."),
    (r"self_attn\.", "among_tokens."),
    (r"cross_attn_token_to_image\.", "to_picture."),
    (r"cross_attn_image_to_token\.", "to_tokens."),
    (r"mlp\.lin1\.", "mlp.0."),
    (r"mlp\.lin2\.", "mlp.2."),
    (r"([qkv]|out)_proj\.", r"\1."),
)


def convert_smartedit(
    out: Path,
    smartedit: Path | None = None,
    check: bool = True,
    settings: Mapping[str, Any] | None = None,
    **others: Path | None,
) -> ModelFolder:
    """Writes the model folder ``out``, which needs none of the sources any more.

    smartedit: the folder as it is published · check: whether to ask the result for its edit tokens
    · settings: of the preset, in other sizes · others: by the names that `Others` gives them.
    Raises FlexEditError for sources that are missing, incomplete or do not belong together.
    """
    own = Source("--smartedit", smartedit, "SmartEdit's folder", PLACE)
    parts = Others(**others)
    require(own, *parts.sources)
    assert smartedit is not None and parts.clip is not None
    files = {part: Weights.read(the_file(smartedit, FILES[part])) for part in FILES}
    with unfinished(out, [own, *parts.sources]) as folder:
        language = LLaVA(parts.of_llava)
        check_rows(files, language)
        config = system_config(out.name, smartedit, files, settings or {})
        assert config.vllm is not None
        null = here(load_text_encoder(parts.clip)([""])[0].detach())
        made = Converted(
            smartedit,
            config,
            trained_plan(files, language.num_pieces) | {"null.edit": null},
            language_plan(files, language),
            projector(files),
            ["<img>", "<im_start>", "<im_end>", *config.vllm.edit_tokens, IMAGE],
            IMAGE,
        )
        finish(files, language)
        write_folder(folder, made, language, parts, check)
    return ModelFolder(out)


def the_file(folder: Path, pattern: str) -> Path:
    """The one file of a training step; raises FlexEditError if there is none, or several."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise FlexEditError(
            f"{folder} lacks {pattern.replace('*', '15000')}. It was downloaded in part, or is not "
            f"SmartEdit's folder: {PLACE}."
        )
    if len(found) > 1:
        raise FlexEditError(f"{folder} has {pattern} of several steps. Keep those of one step.")
    return found[0]


def check_rows(files: Mapping[str, Weights], llava: LLaVA) -> None:
    """Raises FlexEditError where a vocabulary or a width is another than LLaVA's and 35 tokens'."""
    wanted = (llava.num_pieces + 35, llava.width)
    for part, name in (("llm", EMBED_ROWS), ("qformer", HEAD)):
        found = files[part].shape(name)
        if found[1] != wanted[1]:
            raise FlexEditError(
                f"SmartEdit's language model is {found[1]} wide, LLaVA's {wanted[1]}: one is 7B, "
                "the other 13B. Take both of one size."
            )
        if found != wanted:
            raise FlexEditError(
                f"{files[part].where} has a vocabulary of {found[0]} rows, SmartEdit one of "
                f"{wanted[0]}. It is another system's file, or of SmartEdit's first stage."
            )
    if not any("lora_A" in name for name in files["llm"]):
        raise FlexEditError(
            f"{files['llm'].where} has no LoRA. Its makers replaced that file on 28 April 2024; "
            "download it again."
        )


def system_config(
    name: str, folder: Path, files: Mapping[str, Weights], settings: Mapping[str, Any]
) -> SystemConfig:
    """The preset, with what the release says of LoRA and the width of its language model."""
    width = files["qformer"].shape(HEAD)[1]
    config = released.system_config("smartedit", name, LICENCE, width, settings)
    for place in (folder, the_file(folder, FILES["llm"]).parent):
        if (place / "adapter_config.json").is_file():
            says = read_config(place, "adapter_config.json")
            lora = {"rank": says.get("r", 8), "alpha": says.get("lora_alpha", 16)}
            config = config.override({"vllm": {"lora": lora}})
    return config


def trained_plan(files: Mapping[str, Weights], num_pieces: int) -> dict[str, Planned]:
    """By the checkpoint's names, all but e∅"""
    return {
        **{name: planned(files["unet"], name) for name in files["unet"]},
        **qformer_plan(files["qformer"]),
        **bim_plan(files["bim"]),
        **lora_plan(files["llm"]),
        **token_plan(files, num_pieces),
    }


def bim_plan(weights: Weights) -> dict[str, Planned]:
    plan = {}
    for name in weights:
        ours = name
        for pattern, text in BIM:
            ours = re.sub(rf"(?<![a-z_]){pattern}", text, ours)
        plan[f"bim.{ours}"] = planned(weights, name)
    return plan


def qformer_plan(weights: Weights) -> dict[str, Planned]:
    """BERT's names → those of transformers' Q-Former."""
    plan = {"qformer.queries": first_of(planned(weights, "sd_query_tokens"))}
    for name in weights:
        if name.startswith("sd_qformer.") and not name.endswith("position_ids"):
            ours = name.replace("sd_qformer.", "qformer.encoder.")
            ours = ours.replace(".self.", ".attention.")
            ours = ours.replace(".embeddings.LayerNorm.", ".layernorm.")
            plan[ours] = planned(weights, name)
    return plan


def lora_plan(weights: Weights) -> dict[str, Planned]:
    pattern = re.compile(
        rf"{re.escape(LLM)}layers\.(\d+)\.self_attn\.([qv])_proj\.lora_([AB])\.default\.weight"
    )
    found = ((name, pattern.fullmatch(name)) for name in weights)
    return {f"lora.{m[1]}.{m[2]}.{m[3]}": planned(weights, name) for name, m in found if m}


def token_plan(files: Mapping[str, Weights], num_pieces: int) -> dict[str, Planned]:
    """The rows of <img_0> …"""
    start = num_pieces + 3
    embed, head = planned(files["llm"], EMBED_ROWS), planned(files["qformer"], HEAD)
    return {
        "tokens.embed": rows_of(embed, start),
        "tokens.lm_head": rows_of(head, start),
    }


def language_plan(files: Mapping[str, Weights], llava: LLaVA) -> dict[str, Planned]:
    """By LLaMA's names: layers from SmartEdit, which has them all; the rows of LLaMA's vocabulary
    from LLaVA, as its own code takes them; the last row is <image>'s, which is never read.
    """
    llm, num_pieces = files["llm"], llava.num_pieces
    names = (name for name in llm if name.startswith(f"{LLM}layers."))
    kept = (name for name in names if "lora_" not in name and not name.endswith("inv_freq"))
    plan = {f"model.{name.removeprefix(LLM)}": planned(llm, name) for name in kept}
    plan[NORM] = planned(llm, LLM + "norm.weight")
    own = {
        EMBED: planned(llm, EMBED_ROWS),
        HEAD: planned(files["qformer"], HEAD),
    }
    for name, rows in own.items():
        plan[name] = joined(
            rows_of(llava.planned(name), 0, num_pieces),
            rows_of(rows, num_pieces),
            zeros(1, rows.shape[1]),
        )
    return plan


def projector(files: Mapping[str, Weights]) -> tuple[Planned, Planned]:
    weights = files["qformer"]
    return planned(weights, "mm_projector.weight"), planned(weights, "mm_projector.bias")


def finish(files: Mapping[str, Weights], llava: LLaVA) -> None:
    """Raises FlexEditError for tensors that nobody planned for, but those that are made anew."""
    for weights in files.values():
        weights.ignore(CONSTANTS)
        weights.finish()
    llava.finish(ignored=r"model\.layers\..*|model\.norm\.weight|model\.mm_projector\..*")
