"""Editors by the names that the command line's ``--system`` gives them.

A name is ``KIND[:FOLDER][,OPTION[=VALUE]]…``, where KIND is one of KINDS or ``MODULE:CLASS``; or it
is a YAML file with ``kind`` and the options, ``folder`` among them. Options are what the class's
``__init__`` takes; its ``device`` is the one that all are made for, its ``pipeline`` the model in
``folder``, by default the embedded one.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python

from ..errors import FlexEditError
from ..files import read_yaml
from ..pipeline import FlexEditPipeline
from .editors import (
    Editor,
    Finished,
    FlexEdit,
    InstructPix2Pix,
    ReturnScene,
    RoundTrip,
    Truth,
    described,
    folder_name,
    one_line,
)

KINDS: dict[str, type[Editor]] = {
    "flexedit": FlexEdit,
    "instructpix2pix": InstructPix2Pix,
    "round-trip": RoundTrip,
    "pictures": Finished,
    "scene": ReturnScene,
    "truth": Truth,
}
GIVEN = ("pipeline", "device")  # arguments that no option sets


def editors_from(texts: Sequence[str], device: str | None = None) -> list[Editor]:
    """Those of one model folder share its loaded parts.

    Raises FlexEditError for what cannot be understood, and for two editors of one name.
    """
    pipelines = cache(lambda folder: FlexEditPipeline.from_pretrained(folder, device))
    editors = []
    for text in texts:
        kind, options = from_yaml(text) if text.endswith((".yaml", ".yml")) else from_text(text)
        editors.append(make(text, kind, options, pipelines, device))
    names = [editor.name for editor in editors]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FlexEditError(
            f"Two systems are called {twice[0]!r}. Give one of them another name: …,name=other."
        )
    return editors


def from_text(text: str) -> tuple[str, dict[str, Any]]:
    """``KIND[:FOLDER][,OPTION[=VALUE]]…`` → kind and options; without a value: True"""
    head, *parts = text.split(",")
    kind, _, folder = head.partition(":")
    if folder and kind not in KINDS:  # MODULE:CLASS
        kind, folder = head, ""
    options: dict[str, Any] = {"folder": folder} if folder else {}
    for part in parts:
        key, has_value, value = part.partition("=")
        options[key] = value if has_value else True
    return kind, options


def from_yaml(file: str) -> tuple[str, dict[str, Any]]:
    options = read_yaml(Path(file))
    if not isinstance(options, dict) or not isinstance(options.get("kind"), str):
        raise FlexEditError(f"{file} says no `kind` of system. {usages()}")
    return options.pop("kind"), {str(key): value for key, value in options.items()}


def make(
    text: str,
    kind: str,
    options: dict[str, Any],
    pipelines: Callable[[str | None], FlexEditPipeline],
    device: str | None,
) -> Editor:
    """``text``: what the command line says, for messages"""
    cls = KINDS.get(kind) or own_class(text, kind)
    hints, parameters = hints_of(cls), inspect.signature(cls).parameters
    arguments: dict[str, Any] = {}
    if "pipeline" in parameters:
        folder = options.pop("folder", None)
        if not isinstance(folder, str | None):
            raise FlexEditError(f"folder={folder!r} of {text!r} is wrong: give a folder's path.")
        arguments["pipeline"] = pipelines(folder)
    if "device" in parameters:
        arguments["device"] = device
    for key, value in options.items():
        if key not in parameters or key in GIVEN:
            raise FlexEditError(f"{kind!r} has no option {key!r}. Write it as {usage(kind, cls)}.")
        try:
            adapter = TypeAdapter(hints.get(key, Any))
            # True is what a bare option is: only a bool, and no 1.
            arguments[key] = adapter.validate_python(value, strict=value is True or None)
        except PydanticUserError:  # a type of its own, which nothing is known of
            arguments[key] = value
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise FlexEditError(f"{key}={value!r} of {text!r} is wrong: {why}.") from error
    try:
        editor = cls(**arguments)
    except TypeError as error:  # an argument is missing
        raise FlexEditError(f"{error}. Write it as {usage(kind, cls)}.") from error
    except FlexEditError:
        raise
    except Exception as error:  # whatever a class raises
        raise FlexEditError(f"{text!r} cannot be made ({one_line(error)}).") from error
    name = getattr(editor, "name", None)
    if not isinstance(name, str) or folder_name(Path(name)) != name:
        raise FlexEditError(
            f"The name {name!r} of {text!r} cannot be a folder's; "
            "use letters, digits, '.', '_' and '-'."
        )
    if kind not in KINDS:
        model = described(arguments["pipeline"]) if "pipeline" in parameters else {}
        own = {key: arguments[key] for key in options if key != "name"}
        vars(editor)["made_with"] = model | to_jsonable_python(own, fallback=repr)
    return editor


def own_class(text: str, kind: str) -> type[Editor]:
    """The class that MODULE:CLASS names; the module may lie in the present folder."""
    module, _, name = kind.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise FlexEditError(f"Unknown system {text!r}. {usages()}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        cls = getattr(import_module(module), name)
    except Exception as error:  # whatever a module raises
        raise FlexEditError(
            f"The system {text!r} cannot be imported ({one_line(error)}). {usages()}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Editor)):
        raise FlexEditError(f"{kind} is not a class that derives from {Editor.__module__}.Editor.")
    return cls


def hints_of(cls: type[Editor]) -> dict[str, Any]:
    """The types of its options; none where a class of one's own names what is not there."""
    try:
        return get_type_hints(cls.__init__, include_extras=True)
    except Exception:  # whatever the text of a type raises
        return {}


def usages() -> str:
    kinds = "; ".join(usage(kind, cls) for kind, cls in KINDS.items())
    return f"Choose one of: {kinds}; MODULE:CLASS; a YAML file."


def usage(kind: str, cls: type[Editor]) -> str:
    """How the command line writes it: ``scene[,name=…]``"""
    hints, parameters = hints_of(cls), inspect.signature(cls).parameters
    source = ":FOLDER" if "folder" in parameters else ""
    source = "[:FOLDER]" if "pipeline" in parameters else source
    options = [key for key in parameters if key not in (*GIVEN, "folder")]
    flags = (f"[,{key}]" if hints.get(key) is bool else f"[,{key}=…]" for key in options)
    return kind + source + "".join(flags)
