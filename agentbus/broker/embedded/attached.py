"""Workers beside the shared broker: ordered from its keeper, which starts, restarts and ends them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentbus.errors import BrokerError

if TYPE_CHECKING:
    from agentbus.broker.embedded.places import Places

_POLL_SECONDS = 0.02
#: Seconds within which a keeper reads an order.
_ORDER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class AttachedWorkers:
    """The workers that a keeper looks after."""

    #: None while they are not running.
    pid: int | None
    #: How often they were started since they were ordered.
    starts: int
    #: How they ended the last time; empty when they never did.
    ended: str
    #: Seconds, at the time of their end, until they are started again; None: they are not.
    again_in: float | None
    log: Path


def find_workers(places: Places) -> AttachedWorkers | None:
    """Return the workers of a broker; None when none were ordered."""
    try:
        state: dict[str, Any] = json.loads(places.workers_state.read_text())
        return AttachedWorkers(
            state["pid"], state["starts"], state["ended"], state["again_in"], Path(state["log"])
        )
    except (OSError, ValueError, KeyError):
        return None


async def order_workers(
    places: Places, keeper_pid: int, command: Sequence[str], environment: Mapping[str, str]
) -> AttachedWorkers:
    """Have the keeper run workers, unless it does so already, and return them.

    Raises `BrokerError` when the keeper takes no orders.
    """
    _write_order(places, {"do": "run", "command": list(command), "environment": dict(environment)})
    deadline = time.monotonic() + _ORDER_SECONDS
    while True:
        _wake(keeper_pid)
        found = None if places.workers_order.exists() else find_workers(places)
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            places.workers_order.unlink(missing_ok=True)
            raise BrokerError(
                "the keeper of the embedded broker starts no workers: it is of an older agentbus, or stuck. "
                "Stop it with `agentbus down` and start it again"
            )
        await asyncio.sleep(_POLL_SECONDS)


def end_workers(places: Places, keeper_pid: int, deadline: float) -> None:
    """Have the keeper end its workers, and wait for that: they leave while the server still answers."""
    if find_workers(places) is None:
        return
    while find_workers(places) is not None and time.monotonic() < deadline:
        if not places.workers_order.exists():
            # Again, if need be: the keeper may just have removed it with another order that it carried out.
            _write_order(places, {"do": "end"})
        _wake(keeper_pid)
        time.sleep(_POLL_SECONDS)
    places.workers_order.unlink(missing_ok=True)


def _write_order(places: Places, order: Mapping[str, Any]) -> None:
    draft = places.workers_order.with_suffix(f".{os.getpid()}")
    # An environment may hold passwords: nobody else may read it, not even for a moment.
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(order, stream)
    draft.replace(places.workers_order)


def _wake(keeper_pid: int) -> None:
    # Harmless to a keeper that knows nothing of orders: it ignores this signal.
    with suppress(ProcessLookupError, PermissionError):
        os.kill(keeper_pid, signal.SIGHUP)
