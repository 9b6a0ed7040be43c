"""What is said to the VLLM, and how its reply is read (§3.1, §3.3).

A prompt names its pictures [pic1] (the marked scene) and [pic2] (the subject); a reply ends in the
edit tokens ``<img_0> … <img_N-1>`` unless the task is a question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

Task = Literal["edit", "segment", "ask"]
TASKS: tuple[str, ...] = get_args(Task)

IMAGE = "<image>"  # one picture; the VLLM expands it to its image tokens
POSITIONAL = "Utilizing the white mask as a positional benchmark, "
POSITIONAL_PARAPHRASES = (
    POSITIONAL,
    "Taking the white mask as a hint for the place, ",
    "Where the white mask is, ",
    "",
)
SEGMENT_INSTRUCTION = "mark the object under the mask in red"
ASK_INSTRUCTION = "what does the mask mean?"
GENERIC_REPLY = "Sure, I can generate the image you're looking for"
BACKGROUND = "background"  # the label of an empty place

_SPECIAL = re.compile(r"<([^<>\s]*)>|\[((?:IMG|MM)\d+)\]")
_LABEL = re.compile(r"masks? means?:?\s*[\"'‘“](.+?)[\"'’”](?=\W|$)", re.IGNORECASE)


def neutralise(text: str) -> str:
    """Takes the power from what looks like a special token: ‹image›, ‹img_3›, ‹/s›, ‹IMG0›."""
    return _SPECIAL.sub(lambda token: f"‹{token[1] or token[2] or ''}›", text)


def default_instruction(task: str) -> str:
    return {"segment": SEGMENT_INSTRUCTION, "ask": ASK_INSTRUCTION}.get(task, "")


def prompt(
    instruction: str,
    task: str = "edit",
    *,
    with_subject: bool = False,
    with_mask: bool = True,
    positional: str = POSITIONAL,
) -> str:
    """The user's turn, up to the place where the VLLM answers.

    ``positional`` is one of POSITIONAL_PARAPHRASES; training varies it, inference does not.
    """
    text = neutralise(instruction.strip()) or default_instruction(task)
    lead = positional if with_mask and task == "edit" else ""
    pictures = f"[pic1] {IMAGE}" + (f" [pic2] {IMAGE}" if with_subject else "")
    return f"USER: {pictures}\n{lead}{text} ASSISTANT:"


def naming_reply(label: str) -> str:
    return f"The masks means '{label}'"


def parse_label(reply: str) -> str:
    """The object that a reply names, "" if it names none."""
    found = _LABEL.search(reply)
    return found.group(1).strip() if found else ""


def training_replies(replies: Sequence[str], generic: Sequence[bool]) -> list[str]:
    """The replies to learn: the naming one, or the generic one that ``direct`` forces."""
    return [
        GENERIC_REPLY if is_generic else reply
        for reply, is_generic in zip(replies, generic, strict=True)
    ]
