"""LLaVA-1.1, on which SmartEdit and MGIE stand → the folder of a LLaVA as transformers has it.

Its projector is one linear layer, where transformers' class has two: the second one becomes the
identity. V pieces of the vocabulary, D width of the language model
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FlexEditError
from ..model_folder import check_shapes
from ..model_folder.reading import by_library
from ..model_folder.weights import portable_name, read_config, read_weights
from .sources import Source, Weights
from .tokenizer import read_pieces, write_tokenizer
from .writing import Plan, Planned, here, planned, write_part

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
PROJECTOR = ("model.mm_projector.weight", "model.mm_projector.bias")
NUM_ADDED = 3  # <im_patch>, <im_start>, <im_end>
CONSTANTS = r".*rotary_emb\.inv_freq|model\.vision_tower\..*"  # made anew, or CLIP's own
WIDEST_DELTA = 0.1  # norms are trained to be larger than this on average; differences are not
MERGED = "LLaVA-1.1 with LLaMA added to it (LLaVA's scripts do it: llava.model.apply_delta)"
DELTA = "LLaVA-1.1 as it is published, which is the difference to LLaMA"
DELTA_PLACE = "huggingface.co/liuhaotian/LLaVA-Lightning-7B-delta-v1-1 (13B: LLaVA-13b-delta-v1-1)"
SETTINGS = (  # of a language model
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
    "rope_theta",
)


def llava_sources(llava: Path | None, delta: Path | None, llama: Path | None) -> list[Source]:
    """Merged weights, or a difference and LLaMA.

    Raises FlexEditError if both are named.
    """
    if delta is None and llama is None:
        what = f"{MERGED}; or give --llava-delta and --llama"
        return [Source("--llava", llava, what, DELTA_PLACE)]
    if llava is not None:
        raise FlexEditError("Give --llava, or --llava-delta with --llama; not both.")
    what = "LLaMA (the first one) in transformers' format"
    return [
        Source("--llava-delta", delta, DELTA, DELTA_PLACE),
        Source("--llama", llama, what, "huggingface.co/huggyllama/llama-7b (13B: llama-13b)"),
    ]


class LLaVA:
    """Its language model and projector, by its own names."""

    def __init__(self, sources: list[Source]) -> None:
        """Raises FlexEditError for what is no LLaVA-1.1."""
        folders = [source.path for source in sources if source.path is not None]
        self.name, self.folder = sources[0].option, folders[0]
        self.config = read_config(self.folder)
        self.weights = Weights.read(self.folder)
        self.base = Weights.read(folders[1]) if len(folders) > 1 else None
        with_vocabulary = [one for one in folders if (one / "tokenizer.model").is_file()]
        self.vocabulary = (with_vocabulary or folders)[0] / "tokenizer.model"
        self.num_pieces = len(read_pieces(self.vocabulary))
        self._check()

    @property
    def width(self) -> int:
        return self.weights.shape(EMBED)[1]

    def _check(self) -> None:
        if any("mm_projector.0." in name or "multi_modal" in name for name in self.weights):
            raise FlexEditError(
                f"{self.name} names a LLaVA of version 1.5 or later ({self.folder}), whose "
                "projector has two layers. This system stands on LLaVA-1.1: " + DELTA_PLACE + "."
            )
        rows, wanted = self.weights.shape(EMBED)[0], self.num_pieces + NUM_ADDED
        if rows != wanted:
            raise FlexEditError(
                f"{self.name} has a vocabulary of {rows} rows, LLaVA-1.1 one of {wanted}. "
                f"{whose(rows - self.num_pieces)} Look for {DELTA_PLACE}."
            )
        mean = self.weights.take(NORM).float().mean().abs().item()
        if self.base is None and mean < WIDEST_DELTA:
            raise FlexEditError(
                f"{self.name} names raw deltas: the difference between LLaVA and LLaMA. Name them "
                "by --llava-delta, and LLaMA by --llama."
            )
        if self.base is not None and mean >= WIDEST_DELTA:
            raise FlexEditError(
                f"{self.name} names merged weights, no deltas. Name them by --llava, without "
                "--llama."
            )

    def planned(self, name: str) -> Planned:
        """One of its tensors, LLaMA's added where there is one.

        Raises FlexEditError if it is not there, or has another shape than LLaMA's.
        """
        delta, base = planned(self.weights, name), self.base
        if base is None or name in PROJECTOR:
            return delta
        llama, shape = planned(base, name), delta.shape
        theirs = llama.shape
        if theirs != shape and (name not in (EMBED, HEAD) or theirs[1:] != shape[1:]):
            raise FlexEditError(
                f"{name} is {shape} in --llava-delta and {theirs} in --llama: they are of "
                "different sizes. Take both as 7B, or both as 13B."
            )
        return Planned(shape, lambda: summed(delta.make(), llama.make()))

    def layers(self) -> dict[str, Planned]:
        """All of the language model but embeddings and head."""
        names = (name for name in self.weights if name.startswith("model.layers."))
        kept = [name for name in names if not name.endswith("inv_freq")]
        return {name: self.planned(name) for name in (*kept, NORM)}

    def finish(self, ignored: str = "") -> None:
        """Raises FlexEditError for tensors that nobody used or named."""
        for weights in (self.weights, self.base):
            if weights is not None:
                weights.ignore("|".join(filter(None, (CONSTANTS, ignored))))
                weights.finish()


def whose(num_added: int) -> str:
    """Whose vocabulary has so many rows more than LLaMA's."""
    return {
        0: "So many have LLaMA, Vicuna and LLaVA-1.5.",
        11: "So many has MGIE.",
        35: "So many has SmartEdit: its own folder is named by --smartedit.",
    }.get(num_added, "")


def summed(delta: Tensor, base: Tensor) -> Tensor:
    """In full precision; base has the first rows only where tokens were added."""
    total = delta.to(torch.float32, copy=True)
    total[: len(base)] += base.float()
    return total


def rows_of(tensor: Planned, start: int, stop: int | None = None) -> Planned:
    """Rows from ``start`` on."""
    rows = range(tensor.shape[0])[start:stop]
    return Planned((len(rows), *tensor.shape[1:]), lambda: tensor.make()[rows.start : rows.stop])


def first_of(tensor: Planned) -> Planned:
    """(1, …) → (…)"""
    return Planned(tensor.shape[1:], lambda: tensor.make()[0])


def joined(*parts: Planned) -> Planned:
    """Rows of several tensors, one after the other."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Planned(shape, lambda: torch.cat([part.make().float() for part in parts]))


def zeros(*shape: int) -> Planned:
    return Planned(shape, lambda: torch.zeros(shape))


def vllm_config(llava: LLaVA, clip: Path, num_rows: int, image: int) -> Any:
    """transformers' LlavaConfig of LLaVA's language model and a CLIP's tower · num_rows: of its
    vocabulary · image: the token whose place pictures take
    """
    from transformers import CLIPConfig, LlamaConfig, LlavaConfig

    says = llava.config
    kept = {name: says[name] for name in SETTINGS if says.get(name) is not None}
    kept |= {"vocab_size": num_rows, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = by_library(clip, CLIPConfig.from_pretrained, clip).vision_config
    return LlavaConfig(
        text_config=by_library(llava.folder, LlamaConfig, **kept),
        vision_config=vision,
        image_token_index=image,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="linear",
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
        dtype="float16",
    )


def vllm_plan(
    language: Plan, projector: tuple[Planned, Planned], tower: Mapping[str, Tensor]
) -> dict[str, Planned]:
    """By the names that every transformers reads · language: by LLaMA's names · projector: weight
    (D, D_vision) and bias (D,) · tower: CLIP's, by its own names
    """
    weight, bias = projector
    width = weight.shape[0]
    return {
        **{f"language_model.{name}": tensor for name, tensor in language.items()},
        "multi_modal_projector.linear_1.weight": weight,
        "multi_modal_projector.linear_1.bias": bias,
        "multi_modal_projector.linear_2.weight": Planned((width, width), lambda: torch.eye(width)),
        "multi_modal_projector.linear_2.bias": zeros(width),
        **{f"vision_tower.{name}": here(tensor) for name, tensor in tower.items()},
    }


def clip_tower(clip: Path) -> dict[str, Tensor]:
    tensors = read_weights(clip, ("vision_model.",))
    return {name: t for name, t in tensors.items() if not name.endswith("position_ids")}


def check_vllm(config: Any, plan: Plan, folder: Path) -> None:
    """Raises FlexEditError unless a plan has what transformers' class asks for, and no more.
    folder: where the config's settings come from
    """
    from transformers import LlavaForConditionalGeneration as Model

    with torch.device("meta"):
        state = by_library(folder, Model, config).state_dict()
    says = config.to_dict()
    expected = {}
    for name, tensor in state.items():
        name = re.sub(r"^model\.language_model\.", "language_model.model.", name)
        name = re.sub(r"^lm_head\.", "language_model.lm_head.", name)
        expected[portable_name(name.removeprefix("model."), says)] = tensor.shape
    check_shapes(expected, plan, "The converted VLLM")  # type: ignore[arg-type]


def write_vllm(
    folder: Path, config: Any, plan: Plan, llava: LLaVA, added: list[str], clip: Path
) -> None:
    """The folder, with the tokens that were ``added`` and CLIP's way of being shown pictures."""
    shown = clip / "preprocessor_config.json"
    if not shown.is_file():
        raise FlexEditError(f"{clip} lacks {shown.name}. Download it too.")
    check_vllm(config, plan, llava.folder)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    shutil.copy(shown, folder)
    write_tokenizer(folder, llava.vocabulary, added)
    write_part(folder, plan, torch.float16)
