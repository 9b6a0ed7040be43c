"""Progress on the node and a working Cancel button, also where the library does the looping."""

from __future__ import annotations

from collections.abc import Callable

from comfy import model_management
from comfy.utils import ProgressBar


def step_callback(total: int) -> Callable[..., None]:
    """A callback for the library's ``on_token(count)`` and ``on_step(done, total)``."""
    bar = ProgressBar(total)

    def report(done: int, *_: int) -> None:
        model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return report
