"""Files as the makers of SmartEdit, MGIE and LLaVA publish them: their names, in small sizes."""

from __future__ import annotations

import io
from functools import cache

import sentencepiece

SENTENCES = (
    "A chat between a curious user and an artificial intelligence assistant. ",
    "The assistant can generate pictures. The assistant needs to conduct the task. ",
    "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
    "USER: Please generate an image that corresponds to the previous image and text. ",
    "ASSISTANT: Sure, I can generate the image you're looking for. ",
    "what will this image be like if 'make the dog on the left a red cat' ",
)
VOCABULARY = 400


@cache
def vocabulary() -> bytes:
    """A ``tokenizer.model`` with the settings of LLaMA's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
