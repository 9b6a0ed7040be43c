"""The packages that FlexEdit stands on: which versions are here, and what is wrong with them.

ComfyUI's users have them by the choice of many other packs. What is wrong becomes one sentence:
which package, which version is here, and which is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FlexEditError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
MODULES = {"scikit-image": "skimage"}  # by package, where the names differ
SHOWN = ("torch", "transformers", "diffusers", "peft", "accelerate", "huggingface_hub")


@contextmanager
def needed(*names: str) -> Iterator[None]:
    """Around (or on a function) what needs these packages, of those in requirements.txt.

    Raises FlexEditError if one of them is missing, older than needed or broken, or if an import
    fails inside.
    """
    if wrong := [complaint for complaint in map(complaint_of, names) if complaint]:
        raise FlexEditError(" ".join(wrong))
    for name in names:
        try:
            import_module(MODULES.get(name, name))
        except Exception as error:  # whatever a broken package raises
            raise FlexEditError(explain(error)) from error
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
    """Why an import failed, and what is wrong with the packages here."""
    cause = error.__cause__ or error
    why = str(cause).strip().partition("\n")[0].rstrip(".")
    said = [f"A package that FlexEdit needs cannot be imported: {why}.", *complaints()]
    if len(said) > 1:
        return " ".join(said)
    said.append(f"Here are {summary()}.")
    name = (getattr(cause, "name", None) or "").partition(".")[0]
    if isinstance(cause, ModuleNotFoundError) and name in requirements():  # a file of its own
        options = f"--force-reinstall --no-deps {name}=={version_of(name)}"  # not torch with it
        said.append(f"Install it again: {_pip()} {options}")
    return " ".join(said)


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
    return f'{found}, but FlexEdit needs {requirement}. Install it: {_pip()} "{requirement}"'


def _pip() -> str:
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return f"{python} -m pip install"


@cache
def requirements() -> dict[str, Requirement]:
    """What FlexEdit needs, by name: as its requirements.txt says or, where it was installed by pip
    and has none, as its metadata does. Nothing where neither can be read.
    """
    try:
        from packaging.requirements import InvalidRequirement, Requirement

        if (ROOT / "nodes").is_dir():  # else a file of that name is somebody else's
            lines = (ROOT / "requirements.txt").read_text(encoding="utf-8-sig").splitlines()
        else:
            lines = metadata.requires("flexedit") or []
    except (ImportError, OSError, UnicodeDecodeError):  # PackageNotFoundError is an ImportError
        return {}
    needs: dict[str, Requirement] = {}
    for line in lines:
        try:
            need = Requirement(line.partition(" #")[0])
        except InvalidRequirement:  # a comment, an option of pip's
            continue
        if "extra" not in str(need.marker):
            needs[need.name] = need
    return needs


def version_of(name: str) -> str | None:
    """Where Python finds it first; the highest, if an interrupted upgrade left notes of several."""
    distributions = list(metadata.distributions(name=name))
    try:
        from packaging.version import InvalidVersion, Version
    except ImportError:  # then nothing can be compared
        return distributions[0].version if distributions else None
    found: dict[str, list[Version]] = {}
    for distribution in distributions:
        try:
            version = Version(distribution.version)
        except (InvalidVersion, TypeError):  # left over, and empty
            continue
        found.setdefault(str(distribution.locate_file("")), []).append(version)
    return str(max(next(iter(found.values())))) if found else None


def versions() -> dict[str, str]:
    """Of Python and the packages that matter most."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"Python": python} | {name: version_of(name) or "(missing)" for name in SHOWN}


def summary() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items())
