"""IANA time zones by name."""

from __future__ import annotations

import difflib
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from agentbus.errors import InvalidValue

#: Files beside the zones: the machine's own zone, which differs from machine to machine, and a placeholder.
_NO_ZONES = frozenset(("localtime", "Factory", "posixrules"))


def time_zone(name: str, field: str = "timezone") -> ZoneInfo:
    """Return a zone; raises `InvalidValue` with names that look alike for one that does not exist."""
    if not isinstance(name, str) or not name:
        raise InvalidValue(field, f"must be the name of a time zone such as Europe/Berlin, not {name!r}")
    try:
        if name not in _NO_ZONES:
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise InvalidValue(field, f"no time zone is called {name!r}; {_suggestion(name)}")


def _suggestion(name: str) -> str:
    known = {zone.lower(): zone for zone in sorted(available_timezones() - _NO_ZONES)}
    # People know cities: "berlin" is Europe/Berlin.
    cities = [zone for lower, zone in known.items() if lower.rpartition("/")[2] == name.lower()]
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    found = list(dict.fromkeys([*cities, *(known[lower] for lower in close)]))[:3]
    if not found:
        return "names are those of the IANA database, such as UTC, Europe/Berlin or America/New_York"
    return f"did you mean {' or '.join(found)}?"
