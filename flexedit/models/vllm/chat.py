"""How a VLLM is spoken to by its own processor: its pictures, and its own chat format.

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
from .ids import lacks_begin
from .pictures import Pictures

MAX_SIDE = 1024  # pixels; some models cut a picture into as many tiles as it has room for
MIN_SIDE = 8  # pixels; some models refuse a picture that is more than 200 times as long as wide
MAX_PICTURE_TOKENS = 2928  # what a picture of that size becomes, at most: LLaVA-NeXT's
QUESTION = "{question}"  # its place in a prompt's chat format


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
        inputs = self.processor(
            images=[self.shown(row) for row in pictures],
            text=texts,
            add_special_tokens=lacks_begin(self.tokenizer, texts[0]),
            padding=True,
            return_tensors="pt",
        )
        # the tokenizers of transformers 4 make these whether or not the model reads them
        if "token_type_ids" not in inspect.signature(model.forward).parameters:
            inputs.pop("token_type_ids", None)
        return inputs

    def format(self) -> str:
        """What a {question} stands in, up to the place where the VLLM answers."""
        message = {"role": "user", "content": _content(QUESTION, 0)}
        return self.processor.apply_chat_template([message], add_generation_prompt=True)

    def pictures(self, pictures: Sequence[Tensor], token: str) -> Pictures:
        """pictures (3, H, W) in 0..1; token: what stands for one in a text, once."""
        inputs = self.processor(
            images=[self.shown([to_pil(picture)]) for picture in pictures],
            text=[token] * len(pictures),
            add_special_tokens=False,
            padding=True,
            return_tensors="pt",
        )
        ids, is_there = inputs.pop("input_ids"), inputs.pop("attention_mask").bool()
        for name in ("token_type_ids", "mm_token_type_ids"):  # of these texts
            inputs.pop(name, None)
        tokens = [row[keep].tolist() for row, keep in zip(ids, is_there, strict=True)]
        return Pictures(tokens, dict(inputs))

    def shown(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        cuts = self.processor.image_processor
        # what is cut into tiles is whole, and a square would be more of them
        crops = getattr(cuts, "do_center_crop", False) and not hasattr(cuts, "image_grid_pinpoints")
        return [self.to_square(one) if crops else one for one in pictures]

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
