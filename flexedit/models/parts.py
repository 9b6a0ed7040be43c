"""What passes from slot to slot on the way of an edit, and what all trained parts have in common.

B batch, N edit tokens, Q edit embeddings, T tokens of a picture, P its patches, D a width
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from ..errors import FlexEditError
from .preprocess import Fit

Slot = Literal["unet", "bridge", "interaction", "adapter", "vllm"]
SLOTS: tuple[Slot, ...] = get_args(Slot)  # where a system's parts stand, of which something trains


@dataclass(frozen=True)
class Reading:
    """What the VLLM made of a request: instructions as they were given, replies and labels (""
    where nothing was said), H (B, N, D_llm), None if it carries no edit.
    """

    instructions: tuple[str, ...]
    replies: tuple[str, ...]
    labels: tuple[str, ...]
    hidden_states: Tensor | None


@dataclass(frozen=True)
class Text:
    """What a bridge makes of a reading: the edit embeddings e (B, Q, D_context) · pooled (B, P),
    the instruction in one vector, for UNets that read it (SDXL's).
    """

    e: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class PictureTokens:
    """A picture as CLIP sees it: all tokens in text space, CLS first (B, T, D_clip) · raw: the
    patches before the last layer, as LLaVA reads them (B, P, D_vision) · grid: rows and columns ·
    fit: how the picture became the square that CLIP sees.
    """

    projected: Tensor
    raw: Tensor
    grid: tuple[int, int]
    fit: Fit = "padded"


@dataclass(frozen=True)
class Features:
    """What an adapter gives the UNet's cross-attention: f1 (B, L, D_context), L ≥ Q · f2
    (B, T, D_context) or None · the strength λ (B,) that f2 has · what its own loss reads, by name.
    """

    f1: Tensor
    f2: Tensor | None
    strength: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Part(nn.Module):
    """What stands in a slot: it is built from its ``Config``, and what is trained of it lies in
    ``flexedit.safetensors`` under its ``prefix``.

    ``elsewhere``: tensors that lie under another name there · ``frozen``: submodules that others
    trained, which lie in a folder of their own · ``own_losses``: names of what `losses` gives.
    """

    Config: ClassVar[Any]
    prefix: ClassVar[str]
    elsewhere: ClassVar[Mapping[str, str]] = {}
    frozen: tuple[str, ...] = ()
    own_losses: ClassVar[tuple[str, ...]] = ()

    def checkpoint(self) -> dict[str, Tensor]:
        """All that is trained of it, under the checkpoint's names."""
        state = self.state_dict()
        return {key: state[name] for name, key in self._keys(state)}

    def load_checkpoint(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what `checkpoint` gave; names and shapes have been compared."""
        state = {name: tensors[key] for name, key in self._keys(self.state_dict())}
        self.load_state_dict(state, strict=False, assign=True)

    def losses(self, extra: Mapping[str, Tensor], target: PictureTokens) -> dict[str, Tensor]:
        """Losses of its own (B,), from what it found on the way; target: the result's tokens."""
        return {}

    def _keys(self, state: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Its own name of each trained tensor, and the checkpoint's."""
        for name in state:
            if name.partition(".")[0] not in self.frozen:
                yield name, self.elsewhere.get(name, f"{self.prefix}.{name}")


def check_heads(what: str, width: int, num_heads: int) -> None:
    """Raises FlexEditError unless a width (``what``: its name) can be shared by attention heads."""
    if num_heads < 1 or width % num_heads:
        raise FlexEditError(
            f"{what} {width} cannot be shared by num_heads {num_heads}; choose a divisor."
        )


def hidden_states(reading: Reading, width: int) -> Tensor:
    """H (B, N, D_llm) of a reading.

    Raises FlexEditError if it has none, or if they are not ``width`` wide.
    """
    states = reading.hidden_states
    if states is None:
        raise FlexEditError(
            "This intent comes from a stock VLLM, which has no edit tokens. Use the VLLM of "
            "FlexEdit Loader (of a system that has one), or give reply and label to another graph."
        )
    if states.shape[-1] != width:
        raise FlexEditError(
            f"The VLLM's hidden states are {states.shape[-1]} wide, but this part reads {width}. "
            "Take both from the same FlexEdit Loader."
        )
    return states
