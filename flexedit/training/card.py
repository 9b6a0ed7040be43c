"""A model card made from a run, and the hub that it goes to with the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from .. import __version__
from ..errors import FlexEditError
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


def push(run: Path, repo: str, text: str) -> str:
    """Uploads ``run/model`` with its card; → its address. Raises FlexEditError where that fails."""
    from huggingface_hub import HfApi

    (run / "model" / CARD).write_text(text, encoding="utf-8")
    try:
        api = HfApi()
        address = api.create_repo(repo, exist_ok=True, private=True)
        api.upload_folder(repo_id=repo, folder_path=run / "model")
    except Exception as error:  # the hub's errors share no base, nor do those of its connection
        reason = str(error).strip().partition("\n")[0]
        raise FlexEditError(
            f"{repo} could not be written on the hub ({reason}). The model is in {run / 'model'}; "
            f"hf upload {repo} {run / 'model'} tries again."
        ) from error
    return str(address)
