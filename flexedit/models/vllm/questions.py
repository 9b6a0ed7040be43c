"""What a stock VLLM is asked about a marked scene, in plain words: to name what the mask covers,
and to say the instruction anew, so that any other editor can follow it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor

from ... import prompts
from ...request import EditRequest
from ..parts import Reading
from .chat import to_pil

# questions, each row's own pictures, the longest answer in tokens → answers
Ask = Callable[[Sequence[str], Sequence[Sequence[Image.Image]], int], Sequence[str]]

MAX_NAME_TOKENS = 24

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


def read_by_questions(
    ask: Ask, request: EditRequest, marked: Tensor, longest_answer: int
) -> Reading:
    """What the mask means and what is wanted; marked: the marked scene (B, 3, H, W).

    Labels: the name of what the mask covers, "" without a mask. Replies, by task: ``segment``
    the name as it was said, ``ask`` the answer, ``edit`` the instruction rewritten.
    """
    scenes = [[to_pil(picture)] for picture in marked]
    asked_for = zip(request.tasks, request.instructions, request.has_mask, strict=True)
    first = [naming_question(*row) for row in asked_for]
    named = ask_some(ask, first, scenes, MAX_NAME_TOKENS)
    labels = tuple(label_of(name) for name in named)
    shown = scenes
    if request.subject is not None:
        rows = zip(scenes, request.subject, request.has_subject, strict=True)
        shown = [[*scene, to_pil(subject)] if has else scene for scene, subject, has in rows]
    second = [
        following_question(*row)
        for row in zip(
            request.tasks,
            request.instructions,
            labels,
            request.has_subject,
            request.has_mask,
            strict=True,
        )
    ]
    replies = ask_some(ask, second, shown, longest_answer)
    for row, question in enumerate(second):
        if question is None:
            replies[row] = named[row]
        elif request.tasks[row] == "edit":
            replies[row] = replies[row].strip(_QUOTES) or request.instructions[row]
    in_one_line = tuple(" ".join(reply.split()) for reply in replies)
    return Reading(request.instructions, in_one_line, labels, None)


def ask_some(
    ask: Ask,
    questions: Sequence[str | None],
    pictures: Sequence[Sequence[Image.Image]],
    max_new_tokens: int,
) -> list[str]:
    """Answers of the rows that have a question; "" for the others."""
    rows = [row for row, question in enumerate(questions) if question is not None]
    asked = [question for question in questions if question is not None]
    said = ask(asked, [pictures[row] for row in rows], max_new_tokens)
    answers = dict(zip(rows, said, strict=True))
    return [answers.get(row, "") for row in range(len(questions))]


def naming_question(task: str, instruction: str, with_mask: bool) -> str | None:
    """What is asked first: the name of what is meant, if a mask or a `segment` task means it."""
    if with_mask:
        return NAME
    if task == "segment" and instruction:
        return NAME_ASKED_FOR.format(instruction=instruction)
    return None


def following_question(
    task: str, instruction: str, label: str, has_subject: bool, with_mask: bool
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
