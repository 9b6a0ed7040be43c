"""The packages that FlexEdit stands on: which versions are here, and what is wrong with them.

ComfyUI's users have them by the choice of many other packs. What is wrong becomes one sentence:
which package, which version is here, and which is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FlexEditError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
SHOWN = ("torch", "transformers", "diffusers", "peft", "accelerate", "huggingface_hub")


@contextmanager
def needed(*names: str) -> Iterator[None]:
    """Around (or on a function) what needs these packages, of those in requirements.txt.

    Raises FlexEditError if one of them is missing or older than needed, or if an import fails
    inside.
    """
    if wrong := [complaint for complaint in map(complaint_of, names) if complaint]:
        raise FlexEditError(" ".join(wrong))
    try:
        yield
    except (ImportError, RuntimeError) as error:
        if is_failed_import(error):
            raise FlexEditError(explain(error)) from error
        raise


def is_failed_import(error: BaseException) -> bool:
    """transformers and diffusers import late, and raise RuntimeError where that fails."""
    return isinstance(error, ImportError) or str(error).startswith("Failed to import")


def explain(error: BaseException) -> str:
    """What is wrong with the packages here, by an import that failed."""
    if wrong := complaints():
        return " ".join(wrong)
    cause = error.__cause__ or error
    why = str(cause).strip().partition("\n")[0].rstrip(".")
    name = (getattr(cause, "name", None) or "").partition(".")[0]
    if name in requirements():
        advice = _advice(name, "--force-reinstall", "--no-deps")  # not torch with it
        return f"{name} {version_of(name)} cannot be used: {why}. {advice}"
    return (
        f"A package that FlexEdit needs cannot be imported: {why}. Here are {summary()}. "
        "Install again what FlexEdit's requirements.txt lists."
    )


def complaints() -> list[str]:
    return [complaint for name in requirements() if (complaint := complaint_of(name))]


def complaint_of(name: str) -> str | None:
    """A sentence on a package that is missing or older than needed; None if all is well."""
    requirement, version = requirements().get(name), version_of(name)
    if requirement is None:  # an installation that cannot say what it needs
        return None
    if version is None:
        found = f"{name} is not installed"
    elif not requirement.specifier.contains(version, prereleases=True):
        found = f"{name} {version} is installed"
    else:
        return None
    return f"{found}, but FlexEdit needs {requirement}. {_advice(name)}"


def _advice(name: str, *options: str) -> str:
    command = [sys.executable, "-m pip install", *options, f'"{requirements()[name]}"']
    return f"Install it: {' '.join(command)}"


@cache
def requirements() -> dict[str, Requirement]:
    """What FlexEdit needs, by name: as its requirements.txt says or, where it was installed by pip
    and has none, as its metadata does. Nothing where neither can be read.
    """
    try:
        from packaging.requirements import Requirement

        if REQUIREMENTS.is_file():
            lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
        else:
            lines = metadata.requires("flexedit") or []
    except (ImportError, OSError):  # PackageNotFoundError is an ImportError
        return {}
    needs = map(Requirement, lines)
    return {need.name: need for need in needs if "extra" not in str(need.marker)}


def version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Of Python and the packages that matter most."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"Python": python} | {name: version_of(name) or "(missing)" for name in SHOWN}


def summary() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items())
