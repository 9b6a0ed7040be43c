"""InstructPix2Pix's bridge: CLIP's text encoder reads the instruction itself."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from ...validation import STRICT
from ..clip import TextEncoder, TextEncoders
from ..parts import Reading, Text
from .bridge import Bridge


class CLIPText(Bridge):
    """``text``: the model folder's text encoder, or its two."""

    @dataclass(frozen=True, config=STRICT)
    class Config:
        num_embeddings: int  # Q, tokens of a text (77 at full size)
        width: int  # D_context
        type: Literal["clip_text"] = "clip_text"

    prefix = "clip_text"
    frozen = ("text",)

    def __init__(self, config: Config, text: TextEncoder | TextEncoders) -> None:
        super().__init__(config.num_embeddings, config.width)
        self.text = text

    def forward(self, reading: Reading) -> Text:
        return Text(self.text(reading.instructions))
