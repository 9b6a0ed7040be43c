"""The extra ``benchmark``: packages that only those need who measure or review."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import FlexEditError


def require(what: str, *packages: str) -> None:
    """Raises FlexEditError if ``what`` needs packages that are missing; imports none of them."""
    if missing := [name for name in packages if find_spec(name) is None]:
        names = " ".join(missing)
        raise FlexEditError(f"{what} needs packages that are missing here: pip install {names}")
