"""A model card made from a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from .. import __version__
from ..model_folder import ModelFolder
from .monitor import LOG, curve
from .own import RECIPE

CARD = "README.md"


def card(run: Path, command: str, sources: Sequence[str], bases: Sequence[str]) -> str:
    """What is true of the model that a run in a folder has made.

    command: what was typed · sources: the data sets it learned from · bases: what it started from
    """
    config = ModelFolder(run / "model").config
    recipe = (run / RECIPE).read_text(encoding="utf-8")
    facts = {
        "library_name": "flexedit",
        "license": "other",
        "license_name": "see-the-parts",
        "tags": ["image-editing", "flexedit"],
        "base_model": [base for base in bases if not Path(base).exists()],
    }
    lines = [
        "---",
        yaml.safe_dump(facts, sort_keys=False).strip(),
        "---",
        "",
        f"# {config.name}",
        "",
        f"An image editing model, trained with FlexEdit {__version__}. It learned from pictures of "
        f"{config.sampling.size} pixels a side.",
        "",
        "Its licence is the strictest of those of its parts and data, which are:",
        "",
        *(f"- started from: {base}" for base in bases),
        *(f"- learned from: {source}" for source in sources),
        "",
        "## Training",
        "",
        "```sh",
        command,
        "```",
        "",
        "| stage | steps | hours | losses at the end |",
        "|---|---|---|---|",
        *(stage_row(run / name) for name in yaml.safe_load(recipe)),
        "",
        "The losses are of the training itself; nothing was measured on other data.",
        "",
        "## Recipe",
        "",
        "```yaml",
        recipe.strip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def stage_row(folder: Path) -> str:
    if not (folder / LOG).is_file():
        return f"| {folder.name} | – | – | – |"
    last = curve(folder)[-1]
    step, seconds = last.pop("step"), last.pop("seconds")
    losses = ", ".join(f"{name} {value:.4f}" for name, value in last.items())
    return f"| {folder.name} | {step:,.0f} | {seconds / 3600:.1f} | {losses} |"
