"""From a terse instruction to an expressive one, which says what the result looks like (MGIE: Fu et
al. 2024, §3.1), short enough for any editor's prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ...errors import FlexEditError
from ...request import EditRequest
from .base import VLLM
from .chat import to_pil
from .instruction import Instruction

MAX_WORDS = 32  # as many as MGIE's summaries have
MAX_SENTENCES = 2
MAX_TOKENS = 96

QUESTION = (
    "Someone wants this change to the picture: “{instruction}”. What will the picture look like "
    "then? Say it as one explicit instruction for an editor, in at most 32 words: what changes, "
    "where, and how it looks afterwards. Answer with that instruction only."
)
_AFTER = re.compile(r".*ASSISTANT:", re.DOTALL)
_BEFORE = re.compile(r"</s>|\[IMG0\]")
_SECOND_THOUGHT = re.compile("alternative", re.IGNORECASE)  # MGIE's; its makers cut there
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_AROUND = "\"'“”‘’`* \n"


def express(
    vllm: VLLM | Instruction,
    request: EditRequest,
    speaks_first: bool,
    on_token: Callable[[int], None] | None = None,
) -> tuple[str, ...]:
    """Each row's instruction, expressive; as it was where the VLLM says nothing of use.

    A stock VLLM is asked in plain words, a system's own in the way that it was taught ·
    speaks_first: whether that system edits by what its VLLM says (its ``sampling.reply``).
    Raises FlexEditError where there is no VLLM, or one that only names what it sees.
    """
    if isinstance(vllm, Instruction):
        raise FlexEditError(
            "This model has no VLLM that could speak. Take MGIE's folder, or a stock VLLM."
        )
    if not vllm.is_stock and not speaks_first:
        raise FlexEditError(
            "This model's VLLM was not taught to say an instruction at length. Take MGIE's folder, "
            "or a stock VLLM."
        )
    if not vllm.is_stock:
        said = vllm.read(request, request.scene, "generate", on_token).replies
    else:
        questions = [QUESTION.format(instruction=words) for words in request.instructions]
        pictures = [[to_pil(scene)] for scene in request.scene]
        said = tuple(vllm.answer(questions, pictures, MAX_TOKENS, on_token))
    return tuple(
        concise(reply, not vllm.is_stock) or words
        for reply, words in zip(said, request.instructions, strict=True)
    )


def concise(reply: str, by_mgie: bool = False) -> str:
    """What counts of a reply: its first sentences, as many as fit into 32 words, or so many words
    of the first; "" if nothing does.
    """
    if by_mgie:
        reply = _SECOND_THOUGHT.split(reply, maxsplit=1)[0]
    text = _BEFORE.split(_AFTER.sub("", reply), maxsplit=1)[0]
    sentences = _SENTENCE.split(" ".join(text.split()).strip(_AROUND))[:MAX_SENTENCES]
    while len(sentences) > 1 and num_words(sentences) > MAX_WORDS:
        sentences.pop()
    if num_words(sentences) <= MAX_WORDS:
        return " ".join(sentences).strip(_AROUND)
    return " ".join(sentences[0].split()[:MAX_WORDS]).rstrip(".,;:!?") + "."


def num_words(sentences: list[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)
