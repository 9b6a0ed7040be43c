"""Q-Former: distils the VLLM's hidden states into a fixed number of edit embeddings (§3.1, eq. 1).

B batch, N edit tokens, Q queries, D width
"""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor, nn

from ..config import QFormerConfig
from ..errors import FlexEditError


class QFormer(nn.Module):
    """BLIP-2's Q-Former (no text branch, no output projection) over learned queries."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        self.hidden_width = config.hidden_width
        self.queries = nn.Parameter(torch.randn(config.num_queries, config.width) * 0.02)
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

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states (B, N, D_llm) → edit embeddings e (B, Q, D)"""
        if hidden_states.shape[-1] != self.hidden_width:
            raise FlexEditError(
                f"The VLLM's hidden states are {hidden_states.shape[-1]} wide, but this Q-Former "
                f"reads {self.hidden_width}. Take both from the same FlexEdit Loader."
            )
        queries = repeat(self.queries, "q d -> b q d", b=hidden_states.shape[0])
        return self.encoder(
            query_embeds=queries, encoder_hidden_states=hidden_states.to(queries.dtype)
        ).last_hidden_state
