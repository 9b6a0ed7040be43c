"""``convert``: weights that the makers of other systems released → a model folder."""

from __future__ import annotations

import click


@click.group(no_args_is_help=False)
def convert() -> None:
    """Make a model folder of a system's released weights."""
