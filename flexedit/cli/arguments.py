"""The kinds of numbers that commands take; any other is refused before anything runs."""

from __future__ import annotations

import argparse
import math


def seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{number} is not in 0 … 2^63 - 1")
    return number


def training_seed(text: str) -> int:
    """Trainings multiply theirs, by up to a million for the dice of every step."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{number} is not in 0 … 2^32 - 1")
    return number


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{number} is not finite")
    return number


def rate(text: str) -> float:
    number = finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def decay(text: str) -> float:
    number = finite(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not in 0 … 1, without the 1")
    return number


def part(text: str) -> tuple[int, int]:
    """``2/8`` is the second of eight."""
    first, _, count = text.partition("/")
    number, whole = int(first), int(count)
    if not 1 <= number <= whole:
        raise argparse.ArgumentTypeError(f"{text} is not a part; parts are written like 1/4 to 4/4")
    return number, whole
