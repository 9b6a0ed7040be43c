"""MGIE's edit head (§3.2): a small sequence-to-sequence transformer from the VLLM's visual tokens
to edit embeddings.

B batch, N visual tokens, Q queries, D width of the context
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ...errors import FlexEditError
from ...validation import STRICT
from ..parts import Part, Reading, Text, check_heads, hidden_states


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
            check_heads("bridge.inner_width", self.inner_width, self.num_heads)

    prefix = "mapper"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Parameter(torch.randn(config.num_tokens, config.hidden_width) * 0.02)
        self.enter = nn.Linear(config.hidden_width, config.inner_width)
        self.queries = nn.Parameter(torch.randn(config.num_embeddings, config.inner_width) * 0.02)
        layer: dict[str, Any] = {
            "d_model": config.inner_width,
            "nhead": config.num_heads,
            "dim_feedforward": config.intermediate_width,
            "dropout": 0.0,
            "batch_first": True,
            "norm_first": True,
        }
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**layer),
            config.num_layers,
            nn.LayerNorm(config.inner_width),
            enable_nested_tensor=False,  # norm_first rules it out anyway, with a warning
        )
        self.transformer = nn.Transformer(
            **layer, custom_encoder=encoder, num_decoder_layers=config.num_layers
        )
        self.leave = nn.Linear(config.inner_width, config.width)

    def forward(self, reading: Reading) -> Text:
        """H (B, N, D_llm) → edit embeddings e (B, Q, D)"""
        states = hidden_states(reading, self.config.hidden_width)
        if states.shape[1] != self.config.num_tokens:
            raise FlexEditError(
                f"The VLLM gave {states.shape[1]} tokens, but this bridge reads "
                f"{self.config.num_tokens}. Take both from the same FlexEdit Loader."
            )
        return self.map(states.to(self.tokens.dtype))

    def null(self, batch: int) -> Text:
        """e∅ for a batch: (B, Q, D)"""
        return self.map(torch.zeros_like(self.tokens).expand(batch, -1, -1))

    def map(self, states: Tensor) -> Text:
        queries = self.queries.expand(len(states), -1, -1)
        mapped = self.transformer(self.enter(states + self.tokens), queries)
        return Text(self.leave(mapped))
