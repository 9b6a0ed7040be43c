"""``flexedit-mini``: FlexEdit's own classes in tiny sizes, from tokenizers to an untrained folder.

The parts are real: a LLaVA, a CLIP, a factor-4 KL VAE and a UNet that reads two of its latents,
saved by ``save_pretrained`` into a model folder like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import prompts
from ..model_folder.weights import make_portable
from ..models.config import SystemConfig
from ..systems import preset


@dataclass(frozen=True)
class Shape:
    """Sizes of a small system; widths are shared where the parts must meet."""

    size: int = 64  # pixels
    patch: int = 8
    vocabulary: int = 1024
    llm_width: int = 160
    llm_layers: int = 4
    vit_width: int = 176
    vit_layers: int = 4
    clip_width: int = 128  # CLIP's towers and their joint space, and the context the UNet reads
    clip_layers: int = 3
    text_length: int = 24
    num_heads: int = 4
    qformer_layers: int = 3
    num_edit_tokens: int = 32
    vae_channels: tuple[int, ...] = (32, 32, 64)
    latent_channels: int = 4
    unet_channels: tuple[int, ...] = (64, 96, 128)
    unet_cross: tuple[bool, ...] = (False, True, False)  # attention costs most at full resolution
    unet_layers: int = 1


MINI = Shape()
NORM_GROUPS = 8  # with 32 groups of 32 channels each picture would lose its colours
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


def train_tokenizer(texts: Iterable[str], vocabulary: int, *, end: bool = False) -> Any:
    """Byte-level BPE, so that any text a person types can be read; ``end`` closes sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [*SPECIAL.values(), prompts.IMAGE]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    template = "<s> $A </s>" if end else "<s> $A"
    ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def system_config(shape: Shape, name: str = "flexedit-mini") -> SystemConfig:
    """FlexEdit in small sizes."""
    kinds = ["CrossAttn{}Block2D" if cross else "{}Block2D" for cross in shape.unet_cross]
    width, heads = {"width": shape.clip_width}, {"num_heads": shape.num_heads}
    return preset(
        "flexedit",
        {
            "name": name,
            "vllm": {"num_edit_tokens": shape.num_edit_tokens, "lora": {"dropout": 0.0}},
            "bridge": {
                "num_embeddings": shape.text_length,
                "num_layers": shape.qformer_layers,
                "intermediate_width": 2 * shape.clip_width,
                "hidden_width": shape.llm_width,
                **width,
                **heads,
            },
            "adapter": {"clip_width": shape.clip_width, **width, **heads},
            "diffusion": {"prediction_type": "sample"},
            "unet": {
                "sample_size": shape.size // 4,
                "in_channels": 2 * shape.latent_channels,  # the noisy latent and the scene's
                "out_channels": shape.latent_channels,
                "block_out_channels": list(shape.unet_channels),
                "layers_per_block": shape.unet_layers,
                "norm_num_groups": NORM_GROUPS,
                "down_block_types": [kind.format("Down") for kind in kinds],
                "up_block_types": [kind.format("Up") for kind in reversed(kinds)],
                "cross_attention_dim": shape.clip_width,
                "attention_head_dim": shape.num_heads,  # diffusers' name for the number of heads
            },
            "sources": {part: {"folder": part} for part in ("vllm", "clip", "vae")},
            "sampling": {"num_steps": 20, "edit_cfg": 3.0, "size": shape.size},
        },
    )


def build_vllm(shape: Shape, texts: Iterable[str], folder: Path) -> None:
    """An untrained LLaVA (vision tower, projector, Llama) with its tokenizer."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    tokenizer = train_tokenizer(texts, shape.vocabulary)
    config = LlavaConfig(
        vision_config=vision_config(shape, shape.vit_width, shape.vit_layers),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.llm_width,
            intermediate_size=2 * shape.llm_width,
            num_hidden_layers=shape.llm_layers,
            num_attention_heads=shape.num_heads,
            max_position_embeddings=2048,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(prompts.IMAGE),
        image_seq_length=(shape.size // shape.patch) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    assert isinstance(config.vision_config, CLIPVisionConfig)
    Llava(config).save_pretrained(folder)
    make_portable(folder)
    save_tokenizer(tokenizer, folder)
    save_preprocessor(folder, shape.size)


def build_clip(shape: Shape, texts: Iterable[str], folder: Path) -> None:
    """An untrained CLIP: both towers, with its tokenizer."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

    tokenizer = train_tokenizer(texts, shape.vocabulary, end=True)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.clip_width,
        intermediate_size=2 * shape.clip_width,
        num_hidden_layers=shape.clip_layers,
        num_attention_heads=shape.num_heads,
        max_position_embeddings=shape.text_length,
        projection_dim=shape.clip_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = vision_config(shape, shape.clip_width, shape.clip_layers)
    CLIPModel(
        CLIPConfig(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            projection_dim=shape.clip_width,
        )
    ).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    save_preprocessor(folder, shape.size)


def vision_config(shape: Shape, width: int, num_layers: int) -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=shape.num_heads,
        image_size=shape.size,
        patch_size=shape.patch,
        projection_dim=shape.clip_width,
    )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Under the class name that transformers 4 and 5 both know."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.pop("backend", None)
    file.write_text(json.dumps(settings, indent=2) + "\n")


def save_preprocessor(folder: Path, size: int) -> None:
    from transformers import CLIPImageProcessor

    side = {"height": size, "width": size}
    CLIPImageProcessor(size={"shortest_edge": size}, crop_size=side).save_pretrained(folder)


def build_vae(shape: Shape, folder: Path) -> None:
    from diffusers import AutoencoderKL

    levels = len(shape.vae_channels)
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=shape.vae_channels,
        layers_per_block=1,
        norm_num_groups=NORM_GROUPS,
        latent_channels=shape.latent_channels,
        sample_size=shape.size,
        scaling_factor=1.0,
        force_upcast=False,
    ).save_pretrained(folder)


def build_parts(shape: Shape, texts: Iterable[str], folder: Path, seed: int = 0) -> SystemConfig:
    """Writes the untrained parts ``vllm/``, ``clip/`` and ``vae/``; returns the system's config."""
    texts = list(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build_vllm(shape, texts, folder / "vllm")
        build_clip(shape, texts, folder / "clip")
        build_vae(shape, folder / "vae")
    return system_config(shape)
