"""The untrained parts of a small system: a LLaVA, a CLIP and a factor-4 KL VAE.

They are real ones in tiny sizes, saved by ``save_pretrained`` like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from ... import prompts
from ...data.world import World
from ...model_folder.weights import make_portable, read_config
from .clip import describe
from .shape import NORM_GROUPS, Shape

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


def build_parts(shape: Shape, texts: Iterable[str], folder: Path, seed: int = 0) -> None:
    """Writes the untrained ``vllm/``, ``clip/`` and ``vae/``."""
    texts = list(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build_vllm(shape, texts, folder / "vllm")
        build_clip(shape, texts, folder / "clip")
        build_vae(shape, folder / "vae")


def texts(world: World, count: int) -> Iterator[str]:
    """What the tokenizers are trained on: everything that is ever said."""
    yield from prompts.POSITIONAL_PARAPHRASES
    for index in range(count):
        sample = world[index]
        yield prompts.prompt(sample.instruction, sample.task, with_subject=True)
        yield sample.caption
        yield sample.reply
        yield describe(torch.from_numpy(sample.classes))
        if index % 4 == 0:
            yield prompts.GENERIC_REPLY


def train_tokenizer(texts: Iterable[str], vocabulary: int, *, end: bool = False) -> Any:
    """Byte-level BPE, so that any text a person types can be read; ``end`` closes sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL.values(), prompts.IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    template = "<s> $A </s>" if end else "<s> $A"
    ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def build_vllm(shape: Shape, texts: Iterable[str], folder: Path) -> None:
    """An untrained LLaVA (vision tower, projector, Llama) with its tokenizer."""
    from transformers import LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    tokenizer = train_tokenizer(texts, shape.vocabulary)
    language = text_settings(shape, shape.llm_width, shape.llm_layers, tokenizer)
    config = LlavaConfig(
        vision_config=vision_config(shape, shape.vit_width, shape.vit_layers),
        text_config=LlamaConfig(**language, max_position_embeddings=2048, tie_word_embeddings=True),
        image_token_index=tokenizer.convert_tokens_to_ids(prompts.IMAGE),
        image_seq_length=(shape.size // shape.patch) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    Llava(config).save_pretrained(folder)
    make_portable(folder)
    save_tokenizer(tokenizer, folder)
    save_preprocessor(folder, shape.size)


def build_clip(shape: Shape, texts: Iterable[str], folder: Path) -> None:
    """An untrained CLIP: both towers, with its tokenizer."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

    tokenizer = train_tokenizer(texts, shape.vocabulary, end=True)
    width, num_layers = shape.clip_width, shape.clip_layers
    text = CLIPTextConfig(
        **text_settings(shape, width, num_layers, tokenizer),
        max_position_embeddings=shape.text_length,
        projection_dim=width,
    )
    vision = vision_config(shape, width, num_layers)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=width
    )
    CLIPModel(config).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    save_preprocessor(folder, shape.size)


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


def is_vae_of(shape: Shape, folder: Path) -> bool:
    """Whether a VAE has this shape."""
    found = read_config(folder)
    sizes = (tuple(found.get("block_out_channels", ())), found.get("latent_channels"))
    return sizes == (shape.vae_channels, shape.latent_channels)


def text_settings(shape: Shape, width: int, num_layers: int, tokenizer: Any) -> dict[str, Any]:
    """What a language model and CLIP's text tower have in common."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": shape.num_heads,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


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
