"""Q-Former: distils the VLLM's hidden states into a fixed number of edit embeddings (§3.1, eq. 1).

B batch, N edit tokens, Q queries, D width
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import repeat
from pydantic.dataclasses import dataclass
from torch import nn

from ...validation import STRICT
from ..parts import Reading, Text, check_heads, hidden_states
from .bridge import Bridge


class QFormer(Bridge):
    """BLIP-2's Q-Former (no text branch, no output projection) over learned queries."""

    @dataclass(frozen=True, config=STRICT)
    class Config:
        num_embeddings: int  # Q, learned queries (77 at full size)
        width: int  # D_context
        num_layers: int
        num_heads: int
        intermediate_width: int
        hidden_width: int  # D_llm, the width of the hidden states it reads
        cross_attention_frequency: int = 2
        type: Literal["qformer"] = "qformer"

        def __post_init__(self) -> None:
            check_heads("bridge.width", self.width, self.num_heads)

    prefix = "qformer"

    def __init__(self, config: Config) -> None:
        super().__init__(config.num_embeddings, config.width)
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        self.hidden_width = config.hidden_width
        self.queries = nn.Parameter(torch.randn(config.num_embeddings, config.width) * 0.02)
        self.encoder = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.width,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.intermediate_width,
                encoder_hidden_size=config.hidden_width,
                cross_attention_frequency=config.cross_attention_frequency,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )

    def forward(self, reading: Reading) -> Text:
        """H (B, N, D_llm) → edit embeddings e (B, Q, D)"""
        states = hidden_states(reading, self.hidden_width)
        queries = repeat(self.queries, "q d -> b q d", b=len(states))
        encoded = self.encoder(query_embeds=queries, encoder_hidden_states=states.to(queries.dtype))
        return Text(encoded.last_hidden_state)
