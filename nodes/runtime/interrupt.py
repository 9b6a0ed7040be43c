"""Progress on the node and a working Cancel button, also where the library does the looping."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from comfy import model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch.overrides import TorchFunctionMode


class Cancellable(TorchFunctionMode):
    """Whatever computes with torch in here ends at its next call of torch once Cancel is pressed,
    also in the middle of a library's model or its loading.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        model_management.throw_exception_if_processing_interrupted()
        return function(*args, **(kwargs or {}))


def cancellable(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's execute as `Cancellable`. KSampler's is not: ComfyUI cancels between its steps, and
    people compile what it runs.
    """

    @wraps(execute)
    def execute_cancellable(*values: Any, **named: Any) -> io.NodeOutput:
        with Cancellable():
            return execute(*values, **named)

    return execute_cancellable


def step_callback(total: int) -> Callable[..., None]:
    """A callback for the library's ``on_token(count)`` and ``on_step(done, total)``."""
    bar = ProgressBar(total)

    def report(done: float, *_: int) -> None:
        model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return report
