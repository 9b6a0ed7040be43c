"""What differs from one family of VLLMs to the next."""

from __future__ import annotations

from typing import Any

LLAVA_CHAT = (  # how LLaVA 1.5 is spoken to
    "{% for message in messages %}{{ message.role | upper }}: "
    "{% for part in message.content %}{{ '<image>\n' if part.type == 'image' else part.text }}"
    "{% endfor %} {% endfor %}ASSISTANT:"
)


def num_image_tokens(config: Any) -> int:
    """How many tokens one picture becomes for a LLaVA (its config)."""
    vision = config.vision_config
    count = (vision.image_size // vision.patch_size) ** 2
    if vision.model_type == "clip_vision_model":  # it has a class token; SigLIP has none
        count += 1
    if config.vision_feature_select_strategy == "default":  # without the first token
        count -= 1
    return count


def complete_processor(processor: Any, config: Any) -> None:
    """Folders of the first LLaVA models leave to the code what later ones say themselves."""
    if config.model_type != "llava":
        return
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        class_token = config.vision_config.model_type == "clip_vision_model"
        processor.num_additional_image_tokens = int(class_token)
    if processor.chat_template is None:
        processor.chat_template = LLAVA_CHAT
