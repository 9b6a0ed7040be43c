"""One edit as it lies on disk: words, and paths of pictures. A line of JSON is one."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ..prompts import Task
from ..validation import STRICT

DRAWN = "drawn"  # a kind of mask: a scribble of somebody's own


@dataclass(frozen=True, config=STRICT)
class Record:
    """Pictures are paths, from the folder that the line's file is in; "" is none."""

    # what a person gives
    scene: str
    instruction: str = ""  # what a person types
    mask: str = ""  # the scribble
    subject: str | tuple[str, ...] = ""  # a picture of the thing to insert, or several
    task: Task = "edit"
    # what is known about it, to learn from
    target: str = ""  # the result
    object_mask: str = ""  # the whole object that the mask means
    region: str = ""  # where target differs from scene: it counts twice
    label: str = ""  # what the mask means
    reply: str = ""  # what the VLLM should say; default: that the mask means the label
    caption: str = ""  # the instruction, naming everything; default: the instruction itself
    kind: str = DRAWN  # of the mask
    operation: str = ""
    index: int = 0  # in the world that it is from
    # how it is made
    seed: int = 0
    out: str = ""  # the result's file name; default: the edit's number and the scene's name

    @property
    def subjects(self) -> tuple[str, ...]:
        if isinstance(self.subject, str):
            return (self.subject,) if self.subject else ()
        return self.subject

    @property
    def complaint(self) -> str:
        """Why no model here can make this edit, "" if one can."""
        if not self.scene:
            return "the scene is missing."
        if len(self.subjects) > 1:
            return f"there are {len(self.subjects)} subjects; the models read one."
        return ""
