"""What a system is made of, as one frozen tree that is written beside its weights.

Structure has no defaults that depend on a checkpoint: a model folder's ``flexedit.json`` names
everything, and loading never guesses from tensor keys.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union

from pydantic import Field
from pydantic.dataclasses import dataclass

from ..errors import FlexEditError
from ..validation import STRICT, validated
from .adapters import ADAPTERS
from .bridges import BRIDGES
from .diffusion.sampling import DiffusionConfig
from .interactions import INTERACTIONS
from .preprocess import Fit
from .vllm import VLLMS

FORMAT = 2  # of flexedit.json
WHOLE = ("unet", "sources")  # sections that an override replaces, not merges
SHARED = ("num_embeddings", "width", "clip_width")  # what a part's neighbours rely on


def slot(parts: Mapping[str, Any]) -> Any:
    """The type of a slot: the Config of any of its parts, told apart by their ``type``."""
    configs = tuple(part.Config for part in parts.values())
    return Annotated[Union[configs], Field(discriminator="type")]  # noqa: UP007 - made here


if TYPE_CHECKING:
    VLLMSlot: TypeAlias = Any
    BridgeSlot: TypeAlias = Any
    InteractionSlot: TypeAlias = Any
    AdapterSlot: TypeAlias = Any
else:
    VLLMSlot, BridgeSlot = slot(VLLMS), slot(BRIDGES)
    InteractionSlot, AdapterSlot = slot(INTERACTIONS), slot(ADAPTERS)


TOO_LARGE = 2.0  # times the side that a model was trained at


@dataclass(frozen=True, config=STRICT)
class SamplingConfig:
    """What the model's makers recommend; templates and the command line start from it."""

    num_steps: int = 20
    edit_cfg: float = 7.5
    scene_cfg: float = 1.5
    size: int = 512  # the side, in pixels, that the model was trained at
    reply: Literal["direct", "generate"] = "direct"

    def size_hint(self, height: int, width: int) -> str:
        """What to tell who edits a picture far larger than the model learned from, or nothing."""
        if max(height, width) <= TOO_LARGE * self.size:
            return ""
        return (
            f"The picture has {width}×{height} pixels, but this model learned from "
            f"{self.size}×{self.size}: it will edit such a picture badly."
        )


@dataclass(frozen=True, config=STRICT)
class PartSource:
    """Where a frozen part lives: a folder inside the model folder, or a pinned hub revision."""

    folder: str | None = None
    repo: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.repo is None):
            raise FlexEditError(
                "A part of the model names either a 'folder' or a 'repo'; "
                f"flexedit.json gives folder={self.folder!r}, repo={self.repo!r}."
            )
        if self.repo is not None and self.revision is None:
            raise FlexEditError(
                f"The hub repository {self.repo!r} has no pinned 'revision' in flexedit.json; "
                "add one."
            )
        if self.folder is not None and (
            Path(self.folder).is_absolute() or ".." in Path(self.folder).parts
        ):
            raise FlexEditError(f"Part folder {self.folder!r} must lie inside the model folder.")


@dataclass(frozen=True, config=STRICT)
class SystemConfig:
    """A whole system: which part stands in which slot, and of what sizes."""

    name: str
    bridge: BridgeSlot  # H → e
    diffusion: DiffusionConfig
    unet: dict[str, Any]  # the diffusers UNet2DConditionModel config
    sources: dict[str, PartSource]  # "vllm", "clip", "text_encoder", "text_encoder_2", "vae"
    vllm: VLLMSlot | None = None  # None: the instruction itself is what the bridge reads
    interaction: InteractionSlot | None = None  # e and the scene's patches meet; None: e stays
    adapter: AdapterSlot | None = None  # (e, x1, x2) → (f1, f2); None: f1 = e
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    vae_input: Literal["marked", "clean"] = "marked"
    mark_alpha: float = 0.5
    fit: Fit = "padded"  # how pictures become the squares that VLLM and CLIP see
    # of what it was made of, a sentence each
    licences: dict[str, str] = field(default_factory=dict)
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        if not 0.0 < self.mark_alpha <= 1.0:
            raise FlexEditError(f"mark_alpha is {self.mark_alpha}; it must lie in (0, 1].")
        self._check_channels()
        self._check_widths()
        self._check_readers()

    def _check_channels(self) -> None:
        reads, makes = self.unet.get("in_channels"), self.latent_channels
        if not isinstance(makes, int) or reads != 2 * makes:
            raise FlexEditError(
                f"The UNet has in_channels={reads} and out_channels={makes}; FlexEdit needs twice "
                "as many in as out: the noisy latent beside the scene's (eq. 4)."
            )

    def _check_widths(self) -> None:
        context = self.unet.get("cross_attention_dim")
        for name in ("bridge", "interaction", "adapter"):
            part = getattr(self, name)
            if part is not None and part.width != context:
                raise FlexEditError(
                    f"{name}.width is {part.width} but the UNet reads a context {context} wide "
                    "(cross_attention_dim); the two must agree."
                )
        levels = self.unet.get("block_out_channels")
        first = levels[:1] if isinstance(levels, list) else levels
        if self.interaction is not None and [self.interaction.channels] != first:
            raise FlexEditError(
                f"interaction.channels is {self.interaction.channels}, but the UNet's "
                f"block_out_channels are {levels}; its first convolution must make as many."
            )

    def _check_readers(self) -> None:
        """Of the VLLM's hidden states."""
        for name in ("bridge", "adapter"):
            part = getattr(self, name)
            width = getattr(part, "hidden_width", None)
            if width is None:
                continue
            if self.vllm is None:
                raise FlexEditError(
                    f"The {name} {part.type!r} reads a VLLM's hidden states, but vllm is null. "
                    f"Add a vllm section, or choose a {name} that needs none."
                )
            if width != getattr(self.bridge, "hidden_width", width):
                raise FlexEditError(
                    f"{name}.hidden_width is {width}, but bridge.hidden_width is "
                    f"{self.bridge.hidden_width}; both read the same VLLM."
                )
        num_tokens = getattr(self.bridge, "num_tokens", None)
        if self.vllm and num_tokens not in (None, self.vllm.num_edit_tokens):
            raise FlexEditError(
                f"bridge.num_tokens is {num_tokens}, but vllm.num_edit_tokens is "
                f"{self.vllm.num_edit_tokens}; the two must agree."
            )

    @property
    def looks(self) -> bool:
        """Whether any part sees pictures through CLIP."""
        return self.interaction is not None or self.adapter is not None

    @property
    def pools(self) -> bool:
        """Whether its UNet also reads the pooled text and the picture's sizes, as SDXL's."""
        return self.unet.get("addition_embed_type") == "text_time"

    @property
    def pooled_width(self) -> int:
        """P of the pooled text that its UNet reads beside the embeddings of the six sizes."""
        return (
            self.unet["projection_class_embeddings_input_dim"]
            - 6 * (self.unet["addition_time_embed_dim"])
        )

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """What others trained and an edit needs, by the names of ``sources``."""
        bridge: Any = BRIDGES[self.bridge.type]
        needed = {
            "vllm": self.vllm is not None,
            "clip": self.looks,
            "text_encoder": "text" in bridge.frozen,
            "text_encoder_2": self.pools,
            "vae": True,
        }
        return tuple(name for name, is_needed in needed.items() if is_needed)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent of its VAE: as many as the UNet makes, by default diffusers' 4."""
        return self.unet.get("out_channels", 4)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def override(self, changes: Mapping[str, Any]) -> SystemConfig:
        """The same system but for some settings: ``{"adapter": {"residual": False}}``.

        Raises FlexEditError for what does not fit.
        """
        return validated(SystemConfig, merged(self.to_dict(), changes), f"system {self.name!r}")


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, section by section. A part of another type takes the place of the
    one there, and keeps no more of it than the sizes that its neighbours rely on.
    """
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and name not in WHOLE:
            is_same = value.get("type", old.get("type")) == old.get("type")
            shared = old if is_same else {key: old[key] for key in SHARED if key in old}
            value = merged(shared, value)
        result[name] = value
    return result
