"""ComfyUI checks what a widget holds, not what comes by wire, and not every version checks a combo.
Our nodes check both themselves: ``validate_inputs`` before a prompt runs, `checked` in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...flexedit.errors import FlexEditError


def one_of(name: str, value: object, options: Collection[str]) -> bool | str:
    """True, or the message for the person; a linked input is not known yet (None) and passes."""
    if value is None or value in options:
        return True
    return f"Unknown {name} {value!r}; choose one of {', '.join(options)}."


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's execute, which then raises FlexEditError for a number outside of its input's limits,
    an unknown option, and anything else where a picture or a mask belongs.
    """

    @wraps(execute)
    def execute_checked(cls: Any, **values: Any) -> io.NodeOutput:
        for expected in cls.define_schema().inputs:
            if expected.id in values:
                check(expected, values[expected.id])
        return execute(cls, **values)

    return execute_checked


def check(expected: io.Input, value: Any) -> None:
    name = expected.id
    if isinstance(expected, (io.Int.Input, io.Float.Input)):
        is_number = isinstance(value, (int, float)) and math.isfinite(value)
        if not is_number or not expected.min <= value <= expected.max:
            limits = f"a number from {expected.min} to {expected.max}"
            raise FlexEditError(f"{name} is {value!r}. Give {limits}.")
    elif isinstance(expected, io.Combo.Input):
        if value not in expected.options:
            options = ", ".join(expected.options)
            raise FlexEditError(f"{name} is {value!r}. Choose one of {options}.")
    elif isinstance(expected, (io.Image.Input, io.Mask.Input)):
        is_missing = value is None and expected.optional
        if not is_missing and not isinstance(value, Tensor):
            kind = expected.get_io_type()
            raise FlexEditError(f"{name} is {value!r}. Connect an output of the type {kind}.")
