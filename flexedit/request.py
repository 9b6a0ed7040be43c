"""An edit request: everything a person said, checked once and carried through every stage.

B batch, H × W the scene's size in pixels
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import masks, prompts
from .errors import FlexEditError
from .masks import common_batch, prepare_picture
from .prompts import TASKS, PromptConfig

MAX_INSTRUCTION = 4000  # characters; a VLLM's context is finite


@dataclass(frozen=True)
class EditRequest:
    """A batch of edits.

    scene (B, 3, H, W) in 0..1 · mask (B, H, W), 1 = edit; None, or a row of zeros beside rows with
    one: the whole picture ·
    instructions and tasks: one per row · subject (B, 3, h, w) or None ·
    has_subject: which rows really have one (a row without is given any picture).
    """

    scene: Tensor
    mask: Tensor | None
    instructions: tuple[str, ...]
    tasks: tuple[str, ...]
    subject: Tensor | None = None
    has_subject: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.has_subject:
            object.__setattr__(self, "has_subject", (self.subject is not None,) * self.batch_size)

    @property
    def batch_size(self) -> int:
        return self.scene.shape[0]

    @property
    def height(self) -> int:
        return self.scene.shape[2]

    @property
    def width(self) -> int:
        return self.scene.shape[3]

    @property
    def has_mask(self) -> tuple[bool, ...]:
        """Which rows have one"""
        if self.mask is None:
            return (False,) * self.batch_size
        return tuple(self.mask.flatten(1).any(1).tolist())

    @classmethod
    def create(
        cls,
        scene: Tensor,
        instruction: str,
        mask: Tensor | None = None,
        subject: Tensor | None = None,
        task: str = "edit",
    ) -> EditRequest:
        """Checks what a person gave and brings scene, mask and subject to one batch size.

        scene, subject (B, C, H, W) or (C, H, W), 0..1, with 1, 3 or 4 channels ·
        mask (B, H, W) or (H, W), any size: it is resized to the scene.
        Raises FlexEditError for an empty mask, NaN, an instruction that is empty, endless or no
        text, an unknown task, or batches that cannot be matched.
        """
        if task not in TASKS:
            raise FlexEditError(f"Unknown task {task!r}; choose one of {', '.join(TASKS)}.")
        instruction = instruction.strip()
        if not instruction and task == "edit":
            raise FlexEditError(
                "The instruction is empty. Say what should change, then queue again."
            )
        if len(instruction) > MAX_INSTRUCTION:
            raise FlexEditError(
                f"The instruction has {len(instruction)} characters; at most {MAX_INSTRUCTION} "
                "can be read. Say it in a few sentences."
            )
        if broken := re.search(".{,20}[\ud800-\udfff]", instruction):
            raise FlexEditError(
                f"The instruction contains a broken character (a lone surrogate): {broken[0]!a}. "
                "It was read in the wrong encoding; type it again."
            )
        scene = prepare_picture(scene, "scene")
        sizes = {"scene": scene.shape[0]}
        if subject is not None:
            subject = prepare_picture(subject, "subject").to(scene.device)
            sizes["subject"] = subject.shape[0]
        if mask is not None:
            mask = mask.to(scene.device)
            sizes["mask"] = masks.num_masks(mask)
        size = common_batch(sizes)
        if mask is not None:
            mask = masks.prepare_mask(mask, scene.shape[2], scene.shape[3], size)
        scene = scene.expand(size, -1, -1, -1)
        if subject is not None:
            subject = subject.expand(size, -1, -1, -1)
        return cls(scene, mask, (instruction,) * size, (task,) * size, subject)

    def prompts(
        self, positional: Sequence[str] | None = None, form: PromptConfig | None = None
    ) -> list[str]:
        """What the VLLM is asked for each row; ``positional``: each row's phrase, by default
        prompts.POSITIONAL; ``form``: how it was taught to be asked, by default FlexEdit's.
        """
        phrases = positional or [prompts.POSITIONAL] * self.batch_size
        return [
            prompts.prompt(
                instruction,
                task,
                with_subject=has_subject,
                with_mask=has_mask,
                positional=phrase,
                form=form,
            )
            for instruction, task, has_subject, has_mask, phrase in zip(
                self.instructions,
                self.tasks,
                self.has_subject,
                self.has_mask,
                phrases,
                strict=True,
            )
        ]

    def marked(self, alpha: float = 0.5) -> Tensor:
        """The scene with the mask painted white (B, 3, H, W): what VLLM, CLIP and VAE see."""
        if self.mask is None:
            return self.scene
        return masks.paint(self.scene, self.mask, alpha=alpha)

    def to(self, device: torch.device | str) -> EditRequest:
        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return EditRequest(
            self.scene.to(device),
            move(self.mask),
            self.instructions,
            self.tasks,
            move(self.subject),
            self.has_subject,
        )
