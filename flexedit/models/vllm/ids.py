"""From text to ids, as a model was trained: the one place where blanks around tokens count."""

from __future__ import annotations

import re
from typing import Any

from ...prompts import PromptConfig


def prompt_ids(tokenizer: Any, text: str, form: PromptConfig) -> list[int]:
    """A prompt, with the token that begins a text."""
    if form.ids == "whole":
        return tokenizer(text)["input_ids"]
    return [tokenizer.bos_token_id, *stretch_ids(tokenizer, text)]


def reply_ids(tokenizer: Any, text: str, form: PromptConfig) -> list[int]:
    """A reply that follows a prompt; edit tokens come next."""
    if form.ids == "whole":
        said = " " + text if text else ""
        return tokenizer(said, add_special_tokens=False)["input_ids"]
    return stretch_ids(tokenizer, text.strip())


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
