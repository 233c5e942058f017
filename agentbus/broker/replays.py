"""How far replays have come: one small record each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentbus.broker.connection import Broker
from agentbus.broker.keys import replay


class ReplayRecords:
    """Keeps records of replays for as long as what they carried is known to have been carried."""

    def __init__(self, broker: Broker, prefix: str, window_ms: int) -> None:
        self._broker = broker
        self._prefix = prefix
        self._window_ms = window_ms

    async def begin(self, replay_id: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Note a replay; returns the record that is there already, or None."""
        found = await self._broker.execute(
            "SET", replay(self._prefix, replay_id), json.dumps(record), "NX", "GET", "PX", self._window_ms
        )
        return None if found is None else _object(found)

    async def save(self, replay_id: str, record: Mapping[str, Any]) -> None:
        """Note how far it is."""
        key = replay(self._prefix, replay_id)
        await self._broker.execute("SET", key, json.dumps(record), "PX", self._window_ms)

    async def forget(self, replay_id: str) -> None:
        """Take back what `begin` noted."""
        await self._broker.execute("DEL", replay(self._prefix, replay_id))


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
