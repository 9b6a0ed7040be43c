"""Plain data, as JSON and YAML hold it → a checked record, or one sentence on what is wrong.

A record is a frozen dataclass of pydantic: ``@dataclass(frozen=True, config=STRICT)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, to_json

from .errors import FlexEditError

STRICT = ConfigDict(extra="forbid", strict=True)

T = TypeVar("T")

# pydantic's names for errors that get a wording of their own
UNKNOWN = ("unexpected_keyword_argument",)
MISSING = ("missing", "union_tag_not_found")
EXPECTED = {
    "bool_type": "bool",
    "int_type": "int",
    "int_from_float": "int",
    "float_type": "float",
    "string_type": "str",
    "dict_type": "an object",
    "list_type": "a list",
    "tuple_type": "a list",
}


def validated(kind: type[T], data: Any, where: str) -> T:
    """``data`` as a ``kind``. Types are strict: "1" and True are no numbers; 1 is a float, too.

    Raises one FlexEditError that begins with ``where`` (a file, a line) and names the setting, what
    is there and what is expected. What ``__post_init__`` raises: a ValueError gets ``where`` before
    it, a FlexEditError is passed on as it is.
    """
    try:
        # As JSON, where pydantic's strict types take plain objects for nested records.
        text = to_json(data, inf_nan_mode="constants", fallback=repr)
        return TypeAdapter(kind).validate_json(text)
    except PydanticSerializationError as error:
        raise FlexEditError(
            f"{where}: {no_text(data)} is no valid Unicode; look for \\ud800 … \\udfff and write "
            "the whole character."
        ) from error
    except ValidationError as error:
        raise FlexEditError(f"{where}: {complaint(error.errors(), data)}.") from error


def no_text(data: Any) -> str:
    """The setting whose text has half a character"""
    for name, value in data.items() if isinstance(data, dict) else ():
        try:
            to_json(value, fallback=repr)
        except PydanticSerializationError:
            return str(name)
    return "a text in it"


def complaint(errors: Sequence[ErrorDetails], data: Any) -> str:
    """What to say first: unknown settings, then missing ones, then one with a wrong value."""
    for kinds, word in ((UNKNOWN, "unknown"), (MISSING, "missing")):
        paths = [path_of(error, data) for error in errors if error["type"] in kinds]
        if paths:
            section = paths[0][:-1]
            names = sorted(path[-1] for path in paths if path[:-1] == section)
            return f"{heading(section)}{word} setting {', '.join(names)}"
    first, path = errors[0], path_of(errors[0], data)
    value = first["input"]
    if first["type"] == "value_error":
        return heading(path) + str(first["ctx"]["error"]).removesuffix(".")
    if first["type"] == "dataclass_type":
        return f"{heading(path)}expected an object, found {value!r}"
    if first["type"] == "union_tag_invalid":
        value = first["ctx"]["tag"]
    same_place = (error for error in errors if path_of(error, data) == path)
    reasons = "; ".join(dict.fromkeys(expectation(error) for error in same_place))
    if not path:  # the whole
        return f"{reasons}, found {value!r}"
    return f"{heading(path[:-1])}{path[-1]} is {value!r}; {reasons.replace('; expected', ' or')}"


def heading(section: Sequence[str]) -> str:
    return f"{'.'.join(section)}: " if section else ""


def path_of(error: ErrorDetails, data: Any) -> list[str]:
    """Where an error is in the data, without the steps that pydantic adds for unions."""
    path = []
    for step in error["loc"]:
        if isinstance(data, dict):
            holds = step in data
        else:
            holds = isinstance(data, list | tuple) and isinstance(step, int)
        if holds:
            data = data[step]
            path.append(str(step))
    if error["type"] == "missing":
        path.append(str(error["loc"][-1]))
    if error["type"].startswith("union_tag"):
        path.append(error["ctx"]["discriminator"].strip("'"))
    return path


def expectation(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] in EXPECTED:
        return f"expected {EXPECTED[error['type']]}"
    if options := context.get("expected_tags") or context.get("expected"):
        return f"choose one of {options.replace(' or ', ', ').replace(chr(39), '')}"
    return error["msg"].replace("Input should", "it should")
