"""Recipes: YAML files that say what a training's stages learn, from what, and for how long."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic.dataclasses import dataclass

from ..data.mixture import MixtureConfig
from ..errors import FlexEditError
from ..files import read_yaml
from ..models.config import SystemConfig
from ..validation import STRICT, T, validated
from .cache import CacheConfig
from .draws import Losses
from .pretrain.shape import Shape
from .trainer import TrainConfig

FOLDER = Path(__file__).parent / "recipes"
EXPONENT = re.compile(r"[-+]?[\d.]+[eE][-+]?\d+")  # YAML wants a point in it
EXTENDS = "extends"  # the recipe that a recipe differs from
SEED_STRIDE = 10_000  # between the seeds of a run's stages: beyond those that people choose


@dataclass(frozen=True, config=STRICT)
class StageRecipe:
    """losses: what of a system learns, and by which losses; None for a stage that has its own ·
    cache: what no step changes is computed once
    """

    train: TrainConfig
    losses: Losses | None = None
    cache: CacheConfig | None = None

    def check(self, config: SystemConfig) -> None:
        """Raises FlexEditError for settings that make no sense for a system."""
        losses, cache = self.losses, self.cache
        if losses is not None:
            losses.check(config)
        if cache is None:
            return
        if losses is None or (losses.stage == "align" and not cache.vllm):
            raise FlexEditError(
                "A cache keeps nothing that this stage reads. Remove it, or set cache.vllm in a "
                "stage that reads a VLLM."
            )
        if cache.vllm and config.vllm is None:
            raise FlexEditError(f"{config.name} has no VLLM. Remove cache.vllm.")
        if cache.vllm and "vllm" in losses.parts:
            raise FlexEditError(
                "cache.vllm keeps what the VLLM says of a row, which changes while its LoRA and "
                "edit tokens learn. Remove vllm from losses.parts, or cache.vllm."
            )

    def with_settings(self, **settings: Any) -> StageRecipe:
        """The same with other settings of its `TrainConfig`"""
        return replace(self, train=replace(self.train, **settings))


@dataclass(frozen=True, config=STRICT)
class Stages:
    stages: dict[str, StageRecipe]


@dataclass(frozen=True, config=STRICT)
class MiniRecipe(Stages):
    """num_texts: samples whose words the tokenizers learn from · framing: of the world ·
    operations: their weights, by name; default: the world's
    """

    shape: Shape
    num_texts: int
    framing: str = "whole"
    operations: dict[str, float] | None = None


@dataclass(frozen=True, config=STRICT)
class Start:
    """What others trained, each a folder or a repository of the hub: a diffusion pipeline, the CLIP
    that it reads, a VLLM if the system has one.
    """

    pipeline: str
    clip: str
    vllm: str | None = None


@dataclass(frozen=True, config=STRICT)
class SystemRecipe(Stages):
    """A system from nothing but what others trained; data: of each stage"""

    system: str
    size: int
    start: Start
    data: dict[str, MixtureConfig]

    def __post_init__(self) -> None:
        if lacking := [name for name in self.stages if name not in self.data]:
            raise ValueError(f"the stage {lacking[0]} has no data")


SYSTEM_RECIPES = tuple(
    sorted({file.stem for file in FOLDER.glob("*.yaml")} - {"mini", "finetune-own"})
)


def read_recipe(
    kind: type[T], file: Path, changes: Sequence[str] = (), seed: int = 0, stride: int = 0
) -> T:
    """changes: settings by their path, ``stages.joint.train.lr=1e-5`` · seed: of the last stage;
    that of each stage before it is ``stride`` larger. What ``changes`` say of a seed holds.

    Raises FlexEditError for a file that cannot be read, and for settings that are not ours.
    """
    content = _read(file)
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals or not path:
            raise FlexEditError(f"{change!r} sets nothing. Write it as stages.joint.train.lr=1e-5.")
        content = merged(content, _nested(path.split("."), _value(value)))
    if isinstance(content, dict) and isinstance(stages := content.get("stages"), dict):
        seeds = {name: seed + n * stride for n, name in enumerate(reversed(stages))}
        unsaid = {name: {"train": {"seed": seeds[name]}} for name in stages}
        content = content | {"stages": merged(unsaid, stages)}
    return validated(kind, content, str(file))


def _read(file: Path) -> Any:
    content = read_yaml(file)
    if not isinstance(content, dict) or EXTENDS not in content:
        return content
    base = _read(file.with_name(f"{content.pop(EXTENDS)}.yaml"))
    return merged(base, content)


def merged(base: Any, changes: Any) -> Any:
    """Settings with others in their place, section by section."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    both = {name: merged(base[name], changes[name]) for name in base.keys() & changes.keys()}
    return base | changes | both


def _value(text: str) -> Any:
    """As YAML has it; but 1e-5 is a number, and no is a word: a precision."""
    if text in ("no", "yes", "on", "off"):
        return text
    if EXPONENT.fullmatch(text):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise FlexEditError(f"{text!r} is no value ({error}).") from error


def _nested(path: Sequence[str], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def as_yaml(settings: Any) -> str:
    return yaml.safe_dump(_plain(settings), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def mini_recipe(changes: Sequence[str] = (), seed: int = 0) -> MiniRecipe:
    return read_recipe(MiniRecipe, FOLDER / "mini.yaml", changes, seed)


def system_recipe(name: str, changes: Sequence[str] = (), seed: int = 0) -> SystemRecipe:
    """Several of its stages may draw: no two of them see the same rows and noise."""
    return read_recipe(SystemRecipe, FOLDER / f"{name}.yaml", changes, seed, SEED_STRIDE)


def own_stages(changes: Sequence[str] = (), seed: int = 0) -> dict[str, StageRecipe]:
    return read_recipe(Stages, FOLDER / "finetune-own.yaml", changes, seed).stages
