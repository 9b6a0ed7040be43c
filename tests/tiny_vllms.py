"""Vision language models with random weights, one folder of each kind that is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from flexedit.training.pretrain.parts import SPECIAL, build_vllm, train_tokenizer, vision_config
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


def build_vip(folder: Path) -> None:
    """Beside LLaVA's: a projector that reads several layers of the tower."""
    build_llava(folder)
    config = AutoConfig.from_pretrained(folder)
    vision = vision_config(TINY, TINY.vit_width, 3)
    VipLlavaForConditionalGeneration(
        VipLlavaConfig(
            vision_config=vision,
            text_config=config.text_config,
            image_token_index=config.image_token_id,
            vision_feature_layers=[-1, -2, 1],
        )
    ).save_pretrained(folder)


def build_next(folder: Path) -> None:
    """A picture is seen whole and, larger, in tiles."""
    build_vllm(TINY, TEXTS, folder)
    config, tokenizer = (kind.from_pretrained(folder) for kind in (AutoConfig, AutoTokenizer))
    side = TINY.size
    shapes = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=config.vision_config,
            text_config=config.text_config,
            image_token_index=config.image_token_id,
            vision_feature_layer=-1,
            image_grid_pinpoints=shapes,
        )
    ).save_pretrained(folder)
    square = {"height": side, "width": side}
    tiles = LlavaNextImageProcessor(
        size={"shortest_edge": side}, crop_size=square, image_grid_pinpoints=shapes
    )
    LlavaNextProcessor(
        tiles,
        tokenizer,
        patch_size=TINY.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)


QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def qwen_settings(rope: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """→ a tokenizer, and what all Qwens' configs have; rope: of the positions on three axes"""
    tokenizer, text = tokenizer_with(*QWEN)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(QWEN))
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]} | rope
    rope_name = "rope_parameters"
    if int(transformers.__version__.partition(".")[0]) < 5:
        rope_name = "rope_scaling"
        tokenizer = Qwen2TokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **SPECIAL)
    return tokenizer, {
        "text_config": TEXT | text | {rope_name: rope},
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        "image_token_id": image,
        "video_token_id": video,
    }


def save_qwen(model: Any, processor: Any, tokenizer: Any, video: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    patch = model.config.vision_config.patch_size
    side = 2 * patch  # pixels of a token
    pictures = Qwen2VLImageProcessor(min_pixels=side**2, max_pixels=16 * side**2, patch_size=patch)
    chat = CHAT.replace("IMAGE", "".join((QWEN[0], QWEN[2], QWEN[1])))
    processor(pictures, tokenizer, video, chat_template=chat).save_pretrained(folder)


def build_qwen(folder: Path) -> None:
    tokenizer, settings = qwen_settings({})
    vision = {"depth": 2, "num_heads": 2, "out_hidden_size": 32, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(**settings, vision_config=VISION | vision)
    model = Qwen2_5_VLForConditionalGeneration(config)
    save_qwen(model, Qwen2_5_VLProcessor, tokenizer, Qwen2VLVideoProcessor(), folder)


def build_qwen_3(folder: Path) -> None:
    """Beside Qwen2.5's: the tower speaks to early layers of the language model too."""
    tokenizer, settings = qwen_settings({"mrope_interleaved": True})
    settings["text_config"] |= {"head_dim": 16}
    vision = {"depth": 2, "num_heads": 2, "out_hidden_size": 32, "patch_size": 16}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    config = Qwen3VLConfig(**settings, vision_config=VISION | vision)
    model = Qwen3VLForConditionalGeneration(config)
    save_qwen(model, Qwen3VLProcessor, tokenizer, Qwen3VLVideoProcessor(), folder)


IDEFICS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")


def idefics_settings() -> tuple[Any, dict[str, Any]]:
    tokenizer, text = tokenizer_with(*IDEFICS)
    vision = {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    return tokenizer, {
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        "text_config": TEXT | text | {"model_type": "llama"},
        "vision_config": VISION | vision,
    }


TILES = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
TILED = {"image_seq_len": 4, "chat_template": CHAT.replace("IMAGE", "<image>")}


def build_idefics(folder: Path) -> None:
    tokenizer, settings = idefics_settings()
    Idefics3ForConditionalGeneration(Idefics3Config(**settings)).save_pretrained(folder)
    tiles = Idefics3ImageProcessor(**TILES)
    Idefics3Processor(tiles, tokenizer, **TILED).save_pretrained(folder)


def build_smol(folder: Path) -> None:
    tokenizer, settings = idefics_settings()
    SmolVLMForConditionalGeneration(SmolVLMConfig(**settings)).save_pretrained(folder)
    tiles, video = SmolVLMImageProcessor(**TILES), SmolVLMVideoProcessor()
    SmolVLMProcessor(tiles, tokenizer, video, **TILED).save_pretrained(folder)


KINDS: dict[str, Callable[[Path], None]] = {
    "first llava": build_first_llava,
    "llava": build_llava,
    "qwen 2.5": build_qwen,
    "idefics 3": build_idefics,
}
FAMILIES: dict[str, Callable[[Path], None]] = {  # that carry an edit, by their model_type
    "llava": build_llava,
    "vipllava": build_vip,
    "llava_next": build_next,
    "qwen2_5_vl": build_qwen,
    "qwen3_vl": build_qwen_3,
    "idefics3": build_idefics,
    "smolvlm": build_smol,
}


def make_tiny_vllm(kind: str, folder: Path, tied: bool | None = None) -> Path:
    """tied: whether words go in and out by one embedding; None: as its builder likes it."""
    made((KINDS | FAMILIES)[kind], folder)
    if tied is not None:
        config = AutoConfig.from_pretrained(folder)
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder
