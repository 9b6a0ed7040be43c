"""Stock vision language models with random weights, one folder of each kind that is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from flexedit.training.pretrain.parts import SPECIAL, build_vllm, train_tokenizer
from tests.tiny import TEXTS, TINY, made

CHAT = (
    "{% for message in messages %}<s>{{ message.role }}: {% for part in message.content %}"
    "{{ 'IMAGE' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} assistant:{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
VISION = {"hidden_size": 32, "intermediate_size": 64}


def tokenizer_with(*names: str) -> tuple[Any, dict[str, int]]:
    """→ a tokenizer that has these special tokens, and what a language model must know of it"""
    tokenizer = train_tokenizer(TEXTS, TINY.vocabulary)
    tokenizer.add_special_tokens({"additional_special_tokens": list(names)})
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    return tokenizer, ids | {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}


def build_first_llava(folder: Path) -> None:
    """As the first ones were shared: no chat template, and a processor that knows no patches."""
    build_vllm(TINY, TEXTS, folder)


def build_llava(folder: Path) -> None:
    build_vllm(TINY, TEXTS, folder)
    processor = AutoProcessor.from_pretrained(folder)
    processor.patch_size = TINY.patch
    processor.vision_feature_select_strategy = "default"
    processor.num_additional_image_tokens = 1
    processor.chat_template = CHAT.replace("IMAGE", "<image>")
    processor.save_pretrained(folder)


def build_qwen(folder: Path) -> None:
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer, text = tokenizer_with(*names)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(names))
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    rope_name = "rope_parameters"
    if int(transformers.__version__.partition(".")[0]) < 5:
        rope_name = "rope_scaling"
        tokenizer = Qwen2TokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **SPECIAL)
    config = Qwen2_5_VLConfig(
        text_config=TEXT | text | {rope_name: rope},
        vision_config=VISION
        | {"depth": 2, "num_heads": 2, "out_hidden_size": 32, "fullatt_block_indexes": [1]},
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=CHAT.replace("IMAGE", "".join((names[0], names[2], names[1]))),
    ).save_pretrained(folder)


def build_idefics(folder: Path) -> None:
    """The class of SmolVLM."""
    names = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    tokenizer, text = tokenizer_with(*names)
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        text_config=TEXT | text | {"model_type": "llama"},
        vision_config=VISION
        | {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
    )
    Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    tiles = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    chat = CHAT.replace("IMAGE", "<image>")
    Idefics3Processor(tiles, tokenizer, image_seq_len=4, chat_template=chat).save_pretrained(folder)


KINDS: dict[str, Callable[[Path], None]] = {
    "first llava": build_first_llava,
    "llava": build_llava,
    "qwen 2.5": build_qwen,
    "idefics 3": build_idefics,
}


def make_tiny_vllm(kind: str, folder: Path) -> Path:
    return made(KINDS[kind], folder)
