"""What is said to the VLLM, and how its reply is read (§3.1, §3.3).

A prompt names its pictures [pic1] (the marked scene) and [pic2] (the subject); a reply ends in the
edit tokens ``<img_0> … <img_N-1>`` unless the task is a question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from pydantic.dataclasses import dataclass

from .errors import FlexEditError
from .validation import STRICT

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


@dataclass(frozen=True, config=STRICT)
class PromptConfig:
    """How a VLLM was taught to be asked, and what it answers before its edit tokens.

    In chat stands {question}: that of an edit, or of the task ``ask``; in a question {pictures} and
    {instruction}; pictures are the scene and, if there is one, the subject, each with <image>.
    """

    chat: str = "USER: {question} ASSISTANT:"
    edit: str = "{pictures}\n{instruction}"
    ask: str = "{pictures}\n{instruction}"
    scene: str = "[pic1] <image>"
    subject: str = " [pic2] <image>"
    positional: bool = True  # whether the instruction begins with what the mask is
    one_line: bool = False  # whether a line break in an instruction becomes a blank
    reply: str = GENERIC_REPLY  # what ``direct`` forces
    longest_reply: int = 64  # in tokens
    no_repeat: int = 0  # so many tokens in a row are not said twice; 0: they may be
    # How a text becomes ids. whole: as the tokenizer does it. stretches: what stands between added
    # tokens, without blanks around these, each by itself, as slow tokenizers once did.
    ids: Literal["whole", "stretches"] = "whole"

    def __post_init__(self) -> None:
        for name, parts in PLACES.items():
            for part in parts:
                if getattr(self, name).count(part) != 1:
                    raise FlexEditError(f"prompt.{name} must have {part} in it, once.")
        for name, least in (("longest_reply", 1), ("no_repeat", 0)):
            if getattr(self, name) < least:
                raise FlexEditError(
                    f"prompt.{name} is {getattr(self, name)}; it must be {least} or more."
                )

    def question(self, task: str, instruction: str, with_subject: bool) -> str:
        """The user's turn, up to the place where the VLLM answers."""
        pictures = self.scene + (self.subject if with_subject else "")
        asked = self.ask if task == "ask" else self.edit
        values = {"{pictures}": pictures, "{instruction}": instruction}
        return self.chat.replace("{question}", _filled(asked, values))


def _filled(text: str, values: dict[str, str]) -> str:
    """In one go: what is filled in may itself look like a place."""
    return re.sub("|".join(map(re.escape, values)), lambda place: values[place[0]], text)


# What each setting of a PromptConfig must have in it
PLACES = {
    "chat": ("{question}",),
    "edit": ("{pictures}", "{instruction}"),
    "ask": ("{pictures}", "{instruction}"),
    "scene": (IMAGE,),
    "subject": (IMAGE,),
}

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
    form: PromptConfig | None = None,
) -> str:
    """The user's turn, up to the place where the VLLM answers.

    ``positional`` is one of POSITIONAL_PARAPHRASES; training varies it, inference does not.
    ``form``: how the VLLM was taught to be asked, by default FlexEdit's.
    """
    form = form or PromptConfig()
    text = neutralise(instruction.strip()) or default_instruction(task)
    if form.one_line:
        text = re.sub(r"\s*\n\s*", " ", text)
    lead = positional if with_mask and task == "edit" and form.positional else ""
    return form.question(task, lead + text, with_subject)


def naming_reply(label: str) -> str:
    return f"The masks means '{label}'"


def parse_label(reply: str) -> str:
    """The object that a reply names, "" if it names none."""
    found = _LABEL.search(reply)
    return found.group(1).strip() if found else ""


def training_replies(
    replies: Sequence[str], generic: Sequence[bool], forced: str = GENERIC_REPLY
) -> list[str]:
    """The replies to learn: the naming one, or the generic one that ``direct`` forces."""
    return [
        forced if is_generic else reply for reply, is_generic in zip(replies, generic, strict=True)
    ]
