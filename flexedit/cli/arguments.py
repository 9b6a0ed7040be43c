"""Options that several commands take, and the kinds of values in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Report = dict[str, Any]  # what a command says when it is done

PATH = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(0, 2**63 - 1)
# trainings multiply theirs, by up to a million for the dice of every step
TRAINING_SEED = click.IntRange(0, 2**32 - 1)


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator; the help shows them in this order."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


def finite(_: click.Context, __: click.Parameter, number: float | None) -> float | None:
    """A callback: ranges alone let NaN pass."""
    if number is not None and not math.isfinite(number):
        raise click.BadParameter(f"{number} is not finite")
    return number


def part(text: str) -> tuple[int, int]:
    """``2/8`` is the second of eight."""
    first, _, count = text.partition("/")
    if first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count):
        return int(first), int(count)
    raise click.BadParameter(f"{text} is not a part; parts are written like 1/4 to 4/4")


def _remember(context: click.Context, _: click.Parameter, chosen: bool) -> None:
    context.meta[AS_JSON] = chosen


AS_JSON = "flexedit.json"  # in a context's meta
json_option = click.option(
    "--json", is_flag=True, expose_value=False, callback=_remember, help="print one JSON object"
)
framing_option = click.option(
    "--framing",
    default="whole",
    help="of the world's scenes: whole, or crop: larger objects, some cut, as around a mask",
)
model_options = together(
    click.option("--model", type=PATH, help="a model folder; default: flexedit-mini"),
    click.option("--device", help="cpu, cuda, …; default: the GPU if there is one"),
    click.option("--offload", is_flag=True, help="parts take turns on the GPU, for small ones"),
    click.option("--vllm-bits", type=int, help="8 or 4: a smaller VLLM, by bitsandbytes"),
    json_option,
)
