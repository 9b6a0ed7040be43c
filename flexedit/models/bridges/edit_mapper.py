"""MGIE's edit head (§3.2): a small sequence-to-sequence transformer from the VLLM's visual tokens
to edit embeddings.

B batch, N visual tokens, Q queries, D width of the context
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ...validation import STRICT
from ..parts import Part, Reading, Text, check_heads
from .bridge import hidden_states


class EditMapper(Part):
    """The null edit is what it makes of zeros: it trains on with the rest."""

    @dataclass(frozen=True, config=STRICT)
    class Config:
        num_embeddings: int  # Q (77 at full size)
        width: int  # D_context
        num_tokens: int  # N, visual tokens of the VLLM
        hidden_width: int  # D_llm
        inner_width: int
        num_layers: int  # of the encoder, and of the decoder
        num_heads: int
        intermediate_width: int
        type: Literal["edit_mapper"] = "edit_mapper"

        def __post_init__(self) -> None:
            check_heads("bridge", self.inner_width, self.num_heads)

    prefix = "mapper"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Parameter(torch.randn(config.num_tokens, config.hidden_width) * 0.02)
        self.enter = nn.Linear(config.hidden_width, config.inner_width)
        self.queries = nn.Parameter(torch.randn(config.num_embeddings, config.inner_width) * 0.02)
        self.transformer = nn.Transformer(
            config.inner_width,
            config.num_heads,
            config.num_layers,
            config.num_layers,
            config.intermediate_width,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.leave = nn.Linear(config.inner_width, config.width)

    def forward(self, reading: Reading) -> Text:
        """H (B, N, D_llm) → edit embeddings e (B, Q, D)"""
        states = hidden_states(reading, self.config.hidden_width)
        return self.map(states.to(self.tokens.dtype))

    def null(self, batch: int) -> Text:
        """e∅ for a batch: (B, Q, D)"""
        return self.map(torch.zeros_like(self.tokens).expand(batch, -1, -1))

    def map(self, states: Tensor) -> Text:
        queries = self.queries.expand(len(states), -1, -1)
        mapped = self.transformer(self.enter(states + self.tokens), queries)
        return Text(self.leave(mapped))
