"""The cursor: where the next page of a query begins, as text that says whose it is."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from agentbus.broker.inspection.kept import Point
from agentbus.broker.inspection.look import EntryId
from agentbus.errors import InvalidValue
from agentbus.history.query import HistoryQuery

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place within a query."""

    #: The stage that is being read: ``due``, ``waiting``, ``in_flight``, ``dead`` or ``ended``.
    stage: str
    #: The last point that was given; None: the stage has not begun.
    point: Point | None
    #: The newest record when what has not ended was begun to be listed; None: it was not.
    top: EntryId | None
    #: The limits of time as they were understood for the first page.
    since_ms: int | None
    until_ms: int | None

    def encode(self, query: HistoryQuery) -> str:
        """Return it as text."""
        fields = [
            _VERSION, query.digest, self.stage, self.point, self.top, self.since_ms, self.until_ms
        ]  # fmt: skip
        text = json.dumps(fields, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=")


def decode_cursor(text: str, query: HistoryQuery) -> Cursor:
    """Return the place that a text names; raises `InvalidValue` when it is none, or another query's."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        fields = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        version, digest, stage, point, top, since_ms, until_ms = fields
    except (ValueError, TypeError, AttributeError, binascii.Error):
        raise InvalidValue("cursor", f"{text!r} is none; give `next` of a page as it is") from None
    if version != _VERSION:
        raise InvalidValue("cursor", f"is of version {version}; this agentbus reads version {_VERSION}")
    if digest != query.digest:
        raise InvalidValue(
            "cursor", "belongs to another query; give the address and the filters of the page it came from"
        )
    if stage not in query.stages or not (_is_numbers(point, 3) and _is_numbers(top, 2)):
        raise InvalidValue("cursor", f"{text!r} is damaged; give `next` of a page as it is")
    if not (_is_limit(since_ms) and _is_limit(until_ms)):
        raise InvalidValue("cursor", f"{text!r} is damaged; give `next` of a page as it is")
    given = None if point is None else tuple(point)
    return Cursor(stage, given, None if top is None else tuple(top), since_ms, until_ms)


def _is_numbers(value: Any, count: int) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) == count and all(type(part) is int for part in value)


def _is_limit(value: Any) -> bool:
    return value is None or type(value) is int
