"""What differs from one family of VLLMs to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...prompts import IMAGE, PromptConfig

LLAVA_CHAT = (  # how LLaVA 1.5 is spoken to
    "{% for message in messages %}{{ message.role | upper }}: "
    "{% for part in message.content %}{{ '<image>\n' if part.type == 'image' else part.text }}"
    "{% endfor %} {% endfor %}ASSISTANT:"
)
VIP_SYSTEM = (  # what ViP-LLaVA's training began with (its page in transformers' documentation)
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
VIP_FORMAT = VIP_SYSTEM + "###Human: {question}###Assistant:"
VIP_CHAT = VIP_SYSTEM + (
    "{% for message in messages %}###{{ 'Human' if message.role == 'user' else 'Assistant' }}: "
    "{% for part in message.content %}{{ '<image>\n' if part.type == 'image' else part.text }}"
    "{% endfor %}{% endfor %}###Assistant:"
)
QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


@dataclass(frozen=True)
class Family:
    """How a VLLM whose ``model_type`` this is reads prompts and pictures, and where LoRA sits.

    language_model: its path below transformers' model · picture: what stands for one in a prompt ·
    chat_format: what an edit's {question} stands in, None: what the folder's chat template says ·
    chat: the template of folders that have none · squares: every picture is one square of equal
    size, which we make ourselves; else the folder's processor decides how it is cut ·
    own_positions: tokens are not numbered one by one (mrope): the model numbers them itself.
    """

    language_model: str = "model.language_model"
    picture: str = IMAGE
    chat_format: str | None = None
    chat: str | None = None
    squares: bool = False
    own_positions: bool = False


QWEN = Family(picture=QWEN_PICTURE, own_positions=True)
IDEFICS = Family(language_model="model.text_model")
FAMILIES = {
    "llava": Family(chat_format=PromptConfig().chat, chat=LLAVA_CHAT, squares=True),
    "vipllava": Family(chat_format=VIP_FORMAT, chat=VIP_CHAT, squares=True),
    "llava_next": Family(),
    "qwen2_5_vl": QWEN,
    "qwen3_vl": QWEN,
    "idefics3": IDEFICS,
    "smolvlm": IDEFICS,
}


def family_of(config: Any) -> Family | None:
    """By the class of a model's config: transformers 4's Qwens answer with their language model's
    type.
    """
    return FAMILIES.get(type(config).model_type)


def num_image_tokens(config: Any) -> int:
    """How many tokens a picture becomes in a family of squares (its model's config)."""
    vision = config.vision_config
    count = (vision.image_size // vision.patch_size) ** 2
    if vision.model_type == "clip_vision_model":  # it has a class token; SigLIP has none
        count += 1
    if select_strategy(config) == "default":  # without the first token
        count -= 1
    return count


def select_strategy(config: Any) -> str:
    """ViP-LLaVA knows the default one alone."""
    return getattr(config, "vision_feature_select_strategy", "default")


def complete_processor(processor: Any, config: Any) -> None:
    """Folders of the first LLaVA models leave to the code what later ones say themselves."""
    family = family_of(config)
    if family is None or not family.squares:
        return
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = select_strategy(config)
        class_token = config.vision_config.model_type == "clip_vision_model"
        processor.num_additional_image_tokens = int(class_token)
    if processor.chat_template is None:
        processor.chat_template = family.chat
