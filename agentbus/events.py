"""What happened that nobody asked for, but somebody should see.

Every event is counted, logged once under the logger ``agentbus`` with its ``action`` as a field, and given
to whoever listens. The actions:

========================  ============================================================================
``data_lost``             the broker no longer has what it had accepted (failover, FLUSHALL)
``vanished``              an entry was deleted by somebody else while it was held, or while it waited
``fenced``                this process lost its lease; its running handlers were cancelled
``stale_settlement``      a result came after the lease was lost and was refused
``late_reply``            an answer came after its request had given up
``reply_undeliverable``   the process that asked is gone
``loop``                  a conversation goes round and round; a message of it was refused
``dead_letter``           a delivery became a dead letter
``dead_letters_full``     an address has as many dead letters as it may: what dies is parked, never dropped
``dead_letters_filling``  an address has nine tenths of the dead letters it may have
``discarded``             a delivery was discarded by its policy
``durability_degraded``   the server cannot give the default durability
``unknown_eviction``      the server does not say whether it evicts keys
``settlement_refused``    the broker refuses a settlement; it is tried again
``dropped_delivery``      user code let go of a delivery without settling it
``receipts_refused``      the receipts of a message could not be written; whoever reads them finds out
``unregistered``          the registry of agents could not be written; the agent works, and is not listed
``agent_type_changed``    an agent was registered with another type before
``unannounced``           the workers were not told of a due message; their slow sweep finds it
``orphaned``              bodies of delayed messages that nothing points at; somebody deleted the index
``clock_jump``            the server's clock jumped: what is delayed came due early, or comes due late
``gap``                   retention removed messages of a channel before a subscriber had read them
``read_refused``          the broker refuses a read; it is tried again
``policy_ignored``        the stored policy of an address cannot be read
``binding_ignored``       a stored binding or consent cannot be read
``copy_made_good``        copies were made that their publisher owed: it died, or the broker did not answer
``copy_given_up``         copies that were owed are not made: nobody is bound, allowed or able to take them
``owed_unreadable``       what copies are owed at an address cannot be read
``malformed_event``       a live event was no message
``restored``              an entry was taken from its owner by somebody's hand and put back
``reconnected``           the broker answers again
``rebuilt``               a reader that heard nothing although work waits got a new connection
``archive_lag``           what has ended waits too long for the archive, or fills its address
``archive_missing``       messages had left Redis before they were archived
``archive_refused``       PostgreSQL does not take a row; it was set aside
========================  ============================================================================
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger("agentbus")
logger.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    action: str
    address: str
    detail: str
    fields: dict[str, Any] = field(default_factory=dict)


class Events:
    """Counts, logs and passes on events. One per `Bus`."""

    def __init__(self) -> None:
        #: How often each action happened.
        self.counts: Counter[str] = Counter()
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener`` with every event from now on; returns a function that ends this."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def emit(self, action: str, address: str, detail: str, **fields: Any) -> None:
        """Record one event. A listener that fails is logged and does not disturb the bus."""
        self.counts[action] += 1
        logger.warning(
            "%s %s: %s", action, address, detail, extra={"action": action, "address": address, **fields}
        )
        event = Event(action, address, detail, fields)
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("an event listener failed", extra={"action": "listener_failed"})
