"""ComfyUI checks what a widget holds, not what comes by wire, and not every version checks a combo.
Our nodes check both themselves: ``validate_inputs`` before a prompt runs, `checked` in it.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection
from functools import wraps
from inspect import signature
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...flexedit.errors import FlexEditError

# what nobody's output of an own type is
NO_WIRE = (type(None), str, numbers.Number, dict, list, tuple, Tensor)


def one_of(name: str, value: object, options: Collection[str]) -> bool | str:
    """True, or the message for the person; a linked input is not known yet (None) and passes."""
    if value is None or value in list(options):
        return True
    return f"Unknown {name} {shown(value)}; choose one of {', '.join(options)}."


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's execute, which then raises FlexEditError for a number outside of its input's limits,
    an unknown option, and anything else of another type than its input's.
    """

    names = list(signature(execute).parameters)[1:]

    @wraps(execute)
    def execute_checked(cls: Any, *values: Any, **named: Any) -> io.NodeOutput:
        given = dict(zip(names, values, strict=False)) | named
        for expected in cls.define_schema().inputs:
            if expected.id in given:
                check(expected, given[expected.id])
        return execute(cls, **given)

    return execute_checked


def check(expected: io.Input, value: Any) -> None:
    if value is None and expected.optional:
        return
    if isinstance(expected, (io.Int.Input, io.Float.Input)):
        kind = numbers.Integral if isinstance(expected, io.Int.Input) else numbers.Real
        # no comparison holds for NaN
        fits = isinstance(value, kind) and expected.min <= value <= expected.max
        wanted = f"Give a number from {expected.min} to {expected.max}."
    elif isinstance(expected, io.Combo.Input):
        fits = value in list(expected.options)
        wanted = f"Choose one of {', '.join(expected.options)}."
    elif isinstance(expected, io.String.Input):
        fits, wanted = isinstance(value, str), "Give a text."
    elif isinstance(expected, io.Boolean.Input):
        fits, wanted = isinstance(value, bool), "Give true or false."
    else:
        if isinstance(expected, (io.Image.Input, io.Mask.Input)):
            fits = isinstance(value, Tensor)
        elif isinstance(expected, io.Latent.Input):
            fits = isinstance(value, dict) and isinstance(value.get("samples"), Tensor)
        elif isinstance(expected, io.Conditioning.Input):
            fits = isinstance(value, list) and bool(value) and all(map(is_cond, value))
        else:
            fits = not isinstance(value, NO_WIRE)
        wanted = f"Connect an output of the type {expected.get_io_type()}."
    if not fits:
        raise FlexEditError(f"{expected.id} is {shown(value)}. {wanted}")


def is_cond(value: Any) -> bool:
    """[context, {…}], one of ComfyUI's CONDITIONING"""
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], Tensor)


def shown(value: object) -> str:
    """A value in a message, which is one short line."""
    if value is None or isinstance(value, (str, numbers.Number)):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:80]} …"
    return f"of the type {type(value).__name__}"
