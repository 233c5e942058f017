"""Whether a message belongs to a project."""

from __future__ import annotations

from typing import Any

import orjson

from agentbus.errors import InvalidValue
from agentbus.message.topics import check_name


class Belonging:
    """Tells messages of one project from others."""

    def __init__(self, project: str) -> None:
        """``project`` is its id, as in ``project.<id>``; raises `InvalidValue` for one that is none."""
        if isinstance(project, str) and ("*" in project or ">" in project):
            raise InvalidValue("project", f"{project!r} has a wildcard; one project is deleted at a time")
        self.project = check_name(project, "project")
        #: The project's own channel.
        self.address = f"project.{project}"
        self._name = project.encode()

    def holds(self, text: bytes) -> bool:
        """Whether an envelope says so: by its project, or by the channel it was sent on."""
        return self._name in text and self._is_mine(_object(text))

    def holds_schedule(self, definition: bytes) -> bool:
        """Whether the messages of a schedule are to be the project's."""
        message = _object(definition).get("message") if self._name in definition else None
        return isinstance(message, dict) and self._is_mine(message)

    def _is_mine(self, envelope: dict[str, Any]) -> bool:
        return envelope.get("project") == self.project or envelope.get("channel") == self.address


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
