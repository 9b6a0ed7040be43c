"""Systems as data: one YAML each, and the road that all of them walk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import FlexEditError
from ..models.config import SystemConfig, merged
from ..models.parts import SLOTS
from ..validation import validated

FOLDER = Path(__file__).parent
PRESETS = tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))


def preset(
    name: str, settings: Mapping[str, Any], sizes: Mapping[str, float] | None = None
) -> SystemConfig:
    """The system ``name``, in full size but for ``settings``, which give it a name and sources, and
    for ``sizes``: settings by their name alone (``width``), in whichever parts have them.

    Raises FlexEditError for an unknown system, and for settings that do not fit.
    """
    if name not in PRESETS:
        raise FlexEditError(f"There is no system {name!r}; choose one of {', '.join(PRESETS)}.")
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    data |= {slot: resized(data[slot], sizes or {}) for slot in SLOTS}
    return validated(SystemConfig, merged(data, settings), name)


def resized(section: Any, sizes: Mapping[str, float]) -> Any:
    """A section of a config, in sizes of one's own."""
    if not isinstance(section, Mapping):
        return section
    return {name: sizes.get(name, resized(value, sizes)) for name, value in section.items()}
