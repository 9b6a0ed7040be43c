"""A stock vision language model, as its makers left it: it is shown the marked scene and asked in
plain words, in its own chat format. It names what the mask covers and says the instruction anew, so
that any other editor can follow it; having no edit tokens, it steers no FlexEdit model.

B batch, H × W a picture's size in pixels
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .. import prompts
from ..errors import FlexEditError
from ..request import EditRequest
from .vllm import Reading, Watch, reading_memory

MAX_SIDE = 1024  # pixels; some models cut a picture into as many tiles as it has room for
MIN_SIDE = 8  # pixels; some models refuse a picture that is more than 200 times as long as wide
MAX_PICTURE_TOKENS = 2048  # what a picture of that size becomes, at most
MAX_NAME_TOKENS = 24
ROWS_AT_ONCE = 4  # a batch takes no more memory than so many

MARKED = "A part of this picture is marked roughly with half-transparent white paint. "
MARKED_FIRST = "A part of the first picture is marked roughly with half-transparent white paint. "
NAME = MARKED + "Which object or place does the paint mean? Name it in one to four words."
NAME_ASKED_FOR = "Which object is meant by “{instruction}”? Name it in one to four words."
DESCRIBE = "What does this picture show?"
REWRITE = (
    "Someone wants this change: “{instruction}”. {meant}Write the change as one clear instruction "
    "for an editor who sees no paint: name the object, and if there are several of its kind say "
    "which one. {second}Answer with that instruction only."
)
MEANT = "The paint means this: {label}. "
SECOND = "“[pic2]” is the second picture: describe in words what is taken from it. "

LLAVA_CHAT = (  # how LLaVA 1.5 is spoken to
    "{% for message in messages %}{{ message.role | upper }}: "
    "{% for part in message.content %}{{ '<image>\n' if part.type == 'image' else part.text }}"
    "{% endfor %} {% endfor %}ASSISTANT:"
)

_CLAUSE = re.compile(  # "The white paint in the corner covers …", "It is …"
    r"^(?:(?:it|this|that|there|(?:the |white |half-transparent |marked |painted )*"
    r"(?:paint|mark|mask|area|region|part|place|object)\b.{0,40}?)"
    r"\s+(?:is|are|means|covers|marks|shows|represents|indicates|depicts|refers to)"
    r"|(?:it|this|that|there)['’]s)"
    r"(?:\s+(?:over|on|covering|marking))?:?\s+",
    re.IGNORECASE,
)
_LEAD = re.compile(r"^(?:\d+[.)]|\w+:)\s+")  # "1. cat", "Answer: cat"
_END = re.compile(r"(?<!\bSt)(?<!\bNo)(?<!\bDr)(?<!\bMr)(?<!\bMt)\.(?=\s|$)|[!?\n]")
_ARTICLE = re.compile(r"^(?:an?|the|some)\s+", re.IGNORECASE)
_QUOTES = "\"'“”‘’`* \n"


class ChatVLLM(nn.Module):
    """A transformers image-text-to-text model and its processor, both of the same folder.

    Wrapped as a plain module, so that device and dtype are moved like any other part's.
    """

    longest_answer = 256  # tokens; a stock model may say several sentences

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def memory_required(self, num_rows: int, num_pictures: int) -> int:
        """About how many bytes it takes to read a request with so many rows, of so many pictures"""
        num_tokens = min(num_rows, ROWS_AT_ONCE) * (num_pictures * MAX_PICTURE_TOKENS + 512)
        return reading_memory(self.model.config.get_text_config(), num_tokens, self.model.dtype)

    def read(
        self,
        request: EditRequest,
        marked: Tensor,
        on_token: Callable[[int], None] | None = None,
    ) -> Reading:
        """What the mask means and what is wanted; marked: the marked scene (B, 3, H, W).

        Labels: the name of what the mask covers, "" without a mask. Replies, by task: ``segment``
        the name as it was said, ``ask`` the answer, ``edit`` the instruction rewritten.
        ``on_token(count)`` is called for each token of an answer; what it raises ends the reading.
        """
        scenes = [[to_pil(picture)] for picture in marked]
        first = [
            naming_question(task, instruction, request.mask is not None)
            for task, instruction in zip(request.tasks, request.instructions, strict=True)
        ]
        named = self._answer_some(first, scenes, MAX_NAME_TOKENS, on_token)
        labels = tuple(label_of(name) for name in named)
        shown = scenes
        if request.subject is not None:
            shown = [
                [*scene, to_pil(subject)] if has else scene
                for scene, subject, has in zip(
                    scenes, request.subject, request.has_subject, strict=True
                )
            ]
        second = [
            following_question(*row, with_mask=request.mask is not None)
            for row in zip(
                request.tasks, request.instructions, labels, request.has_subject, strict=True
            )
        ]
        answers = self._answer_some(second, shown, self.longest_answer, on_token)
        replies = []
        for row, answer in enumerate(answers):
            if request.tasks[row] == "edit":
                answer = answer.strip(_QUOTES) or request.instructions[row]
            replies.append(named[row] if second[row] is None else answer)
        one_line = tuple(" ".join(reply.split()) for reply in replies)
        return Reading(one_line, labels, None)

    def _answer_some(
        self,
        questions: Sequence[str | None],
        pictures: Sequence[Sequence[Image.Image]],
        max_new_tokens: int,
        on_token: Callable[[int], None] | None,
    ) -> list[str]:
        """`answer` of the rows that have a question; "" for the others."""
        asked = [(row, text) for row, text in enumerate(questions) if text is not None]
        answers = [""] * len(questions)
        for start in range(0, len(asked), ROWS_AT_ONCE):
            rows, texts = zip(*asked[start : start + ROWS_AT_ONCE], strict=True)
            said = self.answer(texts, [pictures[row] for row in rows], max_new_tokens, on_token)
            for row, answer in zip(rows, said, strict=True):
                answers[row] = answer
        return answers

    @torch.no_grad()
    def answer(
        self,
        questions: Sequence[str],
        pictures: Sequence[Sequence[Image.Image]],
        max_new_tokens: int = longest_answer,
        on_token: Callable[[int], None] | None = None,
    ) -> tuple[str, ...]:
        """One question about each row's own pictures → what the model says, greedily."""
        inputs = self.inputs(questions, pictures)
        length = inputs["input_ids"].shape[1]
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and length + max_new_tokens > limit:
            raise FlexEditError(
                f"The question needs {length} tokens with its pictures and {max_new_tokens} for "
                f"the answer, but this VLLM reads at most {limit}. Shorten the instruction, or "
                "choose a VLLM that reads more."
            )
        output = self.model.generate(
            **inputs.to(self.model.device, self.model.dtype),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            stopping_criteria=[Watch(length, on_token)] if on_token else None,
        )
        said = self.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
        return tuple(text.strip() for text in said)

    def inputs(self, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        """Questions and pictures → the model's inputs, left-padded, on the CPU."""
        texts = [
            self.processor.apply_chat_template(
                [{"role": "user", "content": _content(self.harmless(question), len(row))}],
                add_generation_prompt=True,
            )
            for question, row in zip(questions, pictures, strict=True)
        ]
        begin = self.tokenizer.bos_token
        crops = getattr(self.processor.image_processor, "do_center_crop", False)
        shown = [[self._to_square(one) if crops else one for one in row] for row in pictures]
        inputs = self.processor(
            images=shown,
            text=texts,
            add_special_tokens=not (begin and texts[0].startswith(begin)),
            padding=True,
            return_tensors="pt",
        )
        # the tokenizers of transformers 4 make these whether or not the model reads them
        if "token_type_ids" not in inspect.signature(self.model.forward).parameters:
            inputs.pop("token_type_ids", None)
        return inputs

    def harmless(self, text: str) -> str:
        """Takes the power from whatever this model would read as a special token."""
        text = prompts.neutralise(text)
        for token in self.tokenizer.added_tokens_decoder.values():
            if token.special and len(token.content) > 1:
                text = text.replace(token.content, f"{token.content[0]} {token.content[1:]}")
        return text

    def _to_square(self, picture: Image.Image) -> Image.Image:
        """A processor that cuts out the centre would not see a scribble in a corner."""
        side = max(picture.size)
        mean = self.processor.image_processor.image_mean
        square = Image.new("RGB", (side, side), tuple(round(255 * value) for value in mean))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square


def naming_question(task: str, instruction: str, with_mask: bool) -> str | None:
    """What is asked first: the name of what is meant, if a mask or a `segment` task means it."""
    if with_mask:
        return NAME
    if task == "segment" and instruction:
        return NAME_ASKED_FOR.format(instruction=instruction)
    return None


def following_question(
    task: str, instruction: str, label: str, has_subject: bool, *, with_mask: bool
) -> str | None:
    """What is asked then, None if the name is all that is wanted."""
    lead = "" if not with_mask else MARKED_FIRST if has_subject else MARKED
    if task == "edit":
        meant = MEANT.format(label=label) if with_mask and label else ""
        second = SECOND if has_subject else ""
        return lead + REWRITE.format(instruction=instruction, meant=meant, second=second)
    if task == "ask" and instruction:
        return lead + instruction
    return None if with_mask or instruction else DESCRIBE


def label_of(answer: str) -> str:
    """The name in an answer: “The paint covers a red chair.” → red chair"""
    if named := prompts.parse_label(answer):
        return named
    sentence = _END.split(_LEAD.sub("", answer.strip(_QUOTES)), maxsplit=1)[0]
    return _ARTICLE.sub("", _CLAUSE.sub("", sentence).strip(_QUOTES)).strip(_QUOTES)


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
