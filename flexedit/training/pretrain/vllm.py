"""The VLLM learns to answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ... import model_folder
from ...models.vllm import VLLM
from ..batch import Batch
from ..draws import Draw, Losses
from ..trainer import Trainee
from .shape import Shape


def load_vllm(folder: Path, shape: Shape, seed: int) -> tuple[Any, VLLMPretraining]:
    vllm = trainable_vllm(folder)
    # frozen, as in LLaVA: the first gradients of an untrained language model would blind it
    vllm.model.model.vision_tower.requires_grad_(False)
    return vllm.model, VLLMPretraining(vllm, seed)


def trainable_vllm(folder: Path) -> VLLM:
    """Without edit tokens: it only talks."""
    vllm = model_folder.load_vllm(folder)
    vllm.model.set_attn_implementation("eager")  # SDPA's backward is slow on the CPU
    return vllm.requires_grad_(True)


RESTATE = " Say it in full."


class VLLMPretraining(Trainee):
    """The whole VLLM learns to answer: what the scribble means, questions, and half of the edits
    again in words that name everything.

    Any large VLLM can say an instruction again; one that cannot has no words to give to the edit
    tokens, however long these are trained.
    """

    former_names = {"vllm.llava.": "vllm.model."}

    def __init__(self, vllm: VLLM, seed: int = 0) -> None:
        super().__init__()
        self.vllm, self.seed = vllm, seed
        self.recipe = Losses(stage="align", parts=(), generic_reply=0.5)

    def draw(self, step: int, batch_size: int) -> Draw:
        return Draw.make(self.seed, step, (batch_size, 1, 1, 1), self.recipe)

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        request, replies = batch.request, list(batch.replies)
        instructions = list(request.instructions)
        for row, restated in enumerate(draw.generic.tolist()):
            if restated and request.tasks[row] != "ask":
                instructions[row] += RESTATE
                replies[row] = batch.captions[row]
        request = replace(request, instructions=tuple(instructions))
        texts = request.prompts(draw.phrases)
        pictures = self.vllm.pictures(request.marked(), request.subject, request.has_subject)
        silent = [False] * len(texts)
        _, loss = self.vllm.score(texts, pictures, replies, edit_tokens=silent)
        assert loss is not None
        return {"reply": loss}
