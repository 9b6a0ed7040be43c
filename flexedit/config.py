"""What a FlexEdit system is made of, as one frozen tree that is written beside its weights.

Structure has no defaults that depend on a checkpoint: a model folder's ``flexedit.json`` names
everything, and loading never guesses from tensor keys.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import FlexEditError

FORMAT = 1


@dataclass(frozen=True)
class QFormerConfig:
    """Q-Former of §3.1: ``num_queries`` learned queries read the VLLM's hidden states."""

    num_queries: int
    width: int
    num_layers: int
    num_heads: int
    intermediate_width: int
    hidden_width: int  # D_llm, the width of the hidden states it reads
    cross_attention_frequency: int = 2


@dataclass(frozen=True)
class TextBridgeConfig:
    """InstructPix2Pix's way: CLIP's text encoder instead of VLLM and Q-Former."""

    width: int
    num_tokens: int


@dataclass(frozen=True)
class MEAConfig:
    """Mask Enhanced Adapter of §3.2, with the ablations of its tables 3 and 4 as switches."""

    width: int  # D_context, the width of f1 and f2
    clip_width: int  # width of CLIP's projected image tokens
    num_heads: int
    cross_attention: bool = True  # "CA": scene features attend to the marked scene
    decoupled: bool = True  # "DCA": a cross-attention of its own for the subject
    subject: bool = True  # False: no subject at all, as in InstructPix2Pix
    residual: bool = True  # f1 = e + W_o·attn(e, x1); False is the literal eq. 6
    share_kv: bool = False  # True is the literal eq. 7: W_k2, W_v2 serve f1 and f2


@dataclass(frozen=True)
class LoRAConfig:
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise schedule and what the UNet predicts, in diffusers' words."""

    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    num_train_timesteps: int = 1000


TOO_LARGE = 2.0  # times the side that a model was trained at


@dataclass(frozen=True)
class SamplingConfig:
    """What the model's makers recommend; templates and the command line start from it."""

    num_steps: int = 20
    edit_cfg: float = 7.5
    scene_cfg: float = 1.5
    size: int = 512  # the side, in pixels, that the model was trained at

    def size_hint(self, height: int, width: int) -> str:
        """What to tell who edits a picture far larger than the model learned from, or nothing."""
        if max(height, width) <= TOO_LARGE * self.size:
            return ""
        return (
            f"The picture has {width}×{height} pixels, but this model learned from "
            f"{self.size}×{self.size}: it will edit such a picture badly."
        )


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class SystemConfig:
    """A whole system: FlexEdit, an ablation of it, or a baseline such as InstructPix2Pix."""

    name: str
    num_edit_tokens: int  # 0 for a system without a VLLM
    bridge: Literal["qformer", "text"]  # H → e
    mea: MEAConfig  # (e, x1, x2) → (f1, f2)
    diffusion: DiffusionConfig
    unet: dict[str, Any]  # the diffusers UNet2DConditionModel config
    sources: dict[str, PartSource]  # "vllm", "clip", "vae"
    qformer: QFormerConfig | None = None
    text: TextBridgeConfig | None = None
    lora: LoRAConfig | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    interaction: Literal["none"] = "none"
    hidden_state: Literal["at", "before"] = "at"  # the state at a token, or the one predicting it
    vae_input: Literal["marked", "clean"] = "marked"
    mark_alpha: float = 0.5
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise FlexEditError(
                f"flexedit.json has format {self.format}; this version reads format {FORMAT}. "
                "Update FlexEdit, or export the model again."
            )
        if self.bridge == "qformer":
            self._require("qformer", "lora")
            if self.num_edit_tokens < 1:
                raise FlexEditError("A Q-Former needs num_edit_tokens ≥ 1 to read from.")
        else:
            self._require("text")
            if self.num_edit_tokens:
                raise FlexEditError(
                    f"num_edit_tokens is {self.num_edit_tokens}, but the text bridge has no VLLM; "
                    "set it to 0."
                )
        if not 0.0 < self.mark_alpha <= 1.0:
            raise FlexEditError(f"mark_alpha is {self.mark_alpha}; it must lie in (0, 1].")
        self._check_channels()
        self._check_widths()
        self._check_heads()

    def _require(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is None:
                raise FlexEditError(f"System {self.name!r} needs a {name!r} section in its config.")

    def _check_channels(self) -> None:
        reads, makes = self.unet.get("in_channels"), self.latent_channels
        if not isinstance(makes, int) or reads != 2 * makes:
            raise FlexEditError(
                f"The UNet has in_channels={reads} and out_channels={makes}; FlexEdit needs twice "
                "as many in as out: the noisy latent beside the scene's (eq. 4)."
            )

    def _check_widths(self) -> None:
        context = self.unet.get("cross_attention_dim")
        widths = {
            "qformer.width": self.qformer and self.qformer.width,
            "text.width": self.text and self.text.width,
            "mea.width": self.mea.width,
        }
        for name, width in widths.items():
            if width is not None and width != context:
                raise FlexEditError(
                    f"{name} is {width} but the UNet reads a context {context} wide "
                    "(cross_attention_dim); the two must agree."
                )

    def _check_heads(self) -> None:
        for name, part in (("qformer", self.qformer), ("mea", self.mea)):
            if part is not None and (part.num_heads < 1 or part.width % part.num_heads):
                raise FlexEditError(
                    f"{name}.width {part.width} cannot be shared by {name}.num_heads "
                    f"{part.num_heads}; choose a divisor."
                )

    @property
    def has_vllm(self) -> bool:
        return self.num_edit_tokens > 0

    @property
    def latent_channels(self) -> int:
        """Channels of a latent of its VAE: as many as the UNet makes, by default diffusers' 4."""
        return self.unet.get("out_channels", 4)

    @property
    def context_length(self) -> int:
        """Number of edit embeddings (77 at full size)."""
        if self.bridge == "qformer":
            assert self.qformer is not None
            return self.qformer.num_queries
        assert self.text is not None
        return self.text.num_tokens

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "flexedit.json") -> SystemConfig:
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FlexEditError(
                f"{where} is not valid JSON ({error}). Download or export the model again."
            ) from error
        return build(cls, data, where)


def build(kind: Any, data: Any, where: str) -> Any:
    """Builds a (nested) config dataclass from plain JSON, naming whatever is missing or unknown."""
    if not isinstance(data, dict):
        raise FlexEditError(f"{where}: expected an object, found {data!r}.")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - set(fields)):
        raise FlexEditError(f"{where}: unknown setting {', '.join(unknown)}.")
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(data)):
        raise FlexEditError(f"{where}: missing setting {', '.join(missing)}.")
    return kind(**{name: _value(hints[name], data[name], f"{where}: {name}") for name in data})


def build_lines(kind: Any, file: Path) -> list[tuple[str, Any]]:
    """A dataclass of every line of a JSONL file, each with where it stands; null is left out.

    Raises FlexEditError for a file that cannot be read or has no lines, and what `build` raises.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # some programs begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise FlexEditError(f"{file} cannot be read ({error}).") from error
    built = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file.name}, line {number}"
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise FlexEditError(f"{where}: this is not valid JSON ({error}).") from error
        if isinstance(data, dict):
            data = {name: value for name, value in data.items() if value is not None}
        built.append((where, build(kind, data, where)))
    if not built:
        raise FlexEditError(f"{file} is empty: it needs a JSON object a line.")
    return built


def _value(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in options:
            raise FlexEditError(
                f"{where} is {value!r}; choose one of {', '.join(map(str, options))}."
            )
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise FlexEditError(f"{where} is {value!r}; expected an object.")
        inner = options[1]
        if dataclasses.is_dataclass(inner):
            return {key: build(inner, item, f"{where}.{key}") for key, item in value.items()}
        return value
    candidates = [option for option in options if option is not type(None)] or [hint]
    if value is None and type(None) in options:
        return None
    if len(candidates) == 1 and dataclasses.is_dataclass(candidates[0]):
        return build(candidates[0], value, where)
    if not any(_fits(candidate, value) for candidate in candidates):
        names = " or ".join(getattr(c, "__name__", str(c)) for c in candidates)
        raise FlexEditError(f"{where} is {value!r}; expected {names}.")
    return float(value) if candidates == [float] else value


def _fits(kind: Any, value: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, kind)
