"""What a tick fills into its message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")

Values = Mapping[str, str | int]


def filled(value: Any, values: Values) -> Any:
    """Return a JSON value with ``{{name}}`` in its texts replaced.

    A text that is nothing but one placeholder becomes the value itself: a number stays a number. Names that
    are not in ``values`` stay as they are: they may be somebody else's. Names of fields are not looked at.
    """
    if isinstance(value, str):
        return _filled_text(value, values)
    if isinstance(value, Mapping):
        return {name: filled(item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [filled(item, values) for item in value]
    return value


def _filled_text(text: str, values: Values) -> str | int:
    whole = _PLACEHOLDER.fullmatch(text)
    if whole and whole[1] in values:
        return values[whole[1]]
    # One pass: what was filled in is not looked at again.
    return _PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), text)


def filled_body(body: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Return an envelope's body with everything filled in; bytes are nobody's template."""
    untouched = ("content", "content_encoding") if "content_encoding" in body else ()
    return {name: item if name in untouched else filled(item, values) for name, item in body.items()}
