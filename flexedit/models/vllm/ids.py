"""From text to ids, as a model was trained: the one place where blanks around tokens count."""

from __future__ import annotations

import re
from typing import Any

from ...prompts import PromptConfig


def prompt_ids(tokenizer: Any, text: str, form: PromptConfig) -> list[int]:
    """A prompt, with the token that begins a text."""
    if form.ids == "whole":
        return tokenizer(text, add_special_tokens=lacks_begin(tokenizer, text))["input_ids"]
    begin = tokenizer.bos_token_id  # Qwen's have none
    return [*([] if begin is None else [begin]), *stretch_ids(tokenizer, text)]


def reply_ids(tokenizer: Any, text: str, form: PromptConfig) -> list[int]:
    """A reply that follows a prompt; edit tokens come next."""
    if form.ids == "whole":
        gap = "" if form.chat[-1:].isspace() else " "
        said = gap + text if text else ""
        return tokenizer(said, add_special_tokens=False)["input_ids"]
    return stretch_ids(tokenizer, text.strip())


def lacks_begin(tokenizer: Any, text: str) -> bool:
    """Whether the tokenizer has to begin the text as it begins all others: a chat format may."""
    begin = tokenizer.bos_token
    return not (begin and text.startswith(begin))


def stretch_ids(tokenizer: Any, text: str) -> list[int]:
    """As the slow LLaMA tokenizer of transformers 4.28 did it, with which SmartEdit and MGIE were
    trained: a text is cut at added tokens, the stretches lose their blanks beside these, and each
    becomes ids by itself, as if a blank stood before it.
    """
    added = tokenizer.get_added_vocab()
    longest_first = sorted(added, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
    ids: list[int] = []
    for index, piece in enumerate(pieces):
        if index % 2:
            ids.append(added[piece])
            continue
        piece = piece.lstrip() if index > 0 else piece
        piece = piece.rstrip() if index + 1 < len(pieces) else piece
        if piece:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids
