"""How a stock VLLM is spoken to: pictures and questions in its own chat format.

H × W a picture's size in pixels
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import prompts

MAX_SIDE = 1024  # pixels; some models cut a picture into as many tiles as it has room for
MIN_SIDE = 8  # pixels; some models refuse a picture that is more than 200 times as long as wide
MAX_PICTURE_TOKENS = 2048  # what a picture of that size becomes, at most


class Chat:
    """A transformers processor, tokenizer and chat format in one."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def inputs(
        self, model: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]
    ) -> Any:
        """Questions and pictures → what ``model`` reads, left-padded, on the CPU."""
        texts = [
            self.processor.apply_chat_template(
                [{"role": "user", "content": _content(self.harmless(question), len(row))}],
                add_generation_prompt=True,
            )
            for question, row in zip(questions, pictures, strict=True)
        ]
        begin = self.tokenizer.bos_token
        crops = getattr(self.processor.image_processor, "do_center_crop", False)
        shown = [[self.to_square(one) if crops else one for one in row] for row in pictures]
        inputs = self.processor(
            images=shown,
            text=texts,
            add_special_tokens=not (begin and texts[0].startswith(begin)),
            padding=True,
            return_tensors="pt",
        )
        # the tokenizers of transformers 4 make these whether or not the model reads them
        if "token_type_ids" not in inspect.signature(model.forward).parameters:
            inputs.pop("token_type_ids", None)
        return inputs

    def harmless(self, text: str) -> str:
        """Takes the power from whatever this model would read as a special token."""
        text = prompts.neutralise(text)
        for token in self.tokenizer.added_tokens_decoder.values():
            if token.special and len(token.content) > 1:
                text = text.replace(token.content, f"{token.content[0]} {token.content[1:]}")
        return text

    def to_square(self, picture: Image.Image) -> Image.Image:
        """A processor that cuts out the centre would not see a scribble in a corner."""
        side = max(picture.size)
        mean = self.processor.image_processor.image_mean
        square = Image.new("RGB", (side, side), tuple(round(255 * value) for value in mean))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square


def to_pil(picture: Tensor) -> Image.Image:
    """picture (3, H, W) in 0..1 → from MIN_SIDE to MAX_SIDE pixels a side."""
    pixels = (picture.movedim(0, -1) * 255).round().to(torch.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels.numpy(force=True)))
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)
    if min(image.size) < MIN_SIDE:
        image = image.resize((max(image.width, MIN_SIDE), max(image.height, MIN_SIDE)))
    return image


def _content(question: str, num_pictures: int) -> list[dict[str, str]]:
    return [{"type": "image"}] * num_pictures + [{"type": "text", "text": question}]
