"""Not every ComfyUI checks a combo against its options: our ``validate_inputs`` do."""

from __future__ import annotations

from collections.abc import Collection


def one_of(name: str, value: object, options: Collection[str]) -> bool | str:
    """True, or the message for the person; a linked input is not known yet (None) and passes."""
    if value is None or value in options:
        return True
    return f"Unknown {name} {value!r}; choose one of {', '.join(options)}."
