"""What bridges have in common: e∅, to which the edit is dropped.

B batch, Q edit embeddings, D width of the context
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..parts import Part, Reading, Text


class Bridge(Part):
    """The null edit is CLIP's text embedding of "", stored as ``null.edit``."""

    elsewhere = {"null_edit": "null.edit"}
    null_edit: Tensor  # (Q, D)

    def __init__(self, num_embeddings: int, width: int) -> None:
        super().__init__()
        self.register_buffer("null_edit", torch.zeros(num_embeddings, width))

    def forward(self, reading: Reading) -> Text:
        """H or the instructions of a reading → edit embeddings e (B, Q, D)"""
        raise NotImplementedError

    def null(self, batch: int) -> Text:
        """e∅ for a batch: (B, Q, D)"""
        return Text(self.null_edit.expand(batch, -1, -1))
