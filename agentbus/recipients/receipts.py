"""Receipts of a message: how it is with each recipient, and waiting for all of them."""

from __future__ import annotations

import asyncio

from agentbus.broker.connection import Broker
from agentbus.broker.receipts import ReceiptStore, Rows
from agentbus.errors import BrokerUnavailable, NoSuchReceipts, ReceiptTimeout
from agentbus.message.durations import Duration, readable, seconds
from agentbus.recipients.receipt import Receipt, check_level, receipt_of
from agentbus.recipients.reconciling import Reconciler

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
#: Seconds between looks into the inboxes while somebody waits.
_RECONCILE_INTERVAL = 2.0


class Receipts:
    """Reads receipts."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._store = ReceiptStore(broker, prefix)
        self._reconciler = Reconciler(broker, prefix, self._store)

    async def status(self, message_id: str) -> list[Receipt]:
        """Return how it is with each recipient; raises `NoSuchReceipts`."""
        return _shown(await self._reconciler.reconcile(await self._read(message_id)))

    async def wait_all(self, message_id: str, level: str, timeout: Duration) -> list[Receipt]:
        """Wait until every recipient has come to ``level``, or never will; return how it is with each.

        Raises `ReceiptTimeout` with those who are missing. A broker that is away is waited for.
        """
        check_level(level)
        patience = seconds(timeout, "timeout")
        loop = asyncio.get_running_loop()
        until, look_closely = loop.time() + patience, loop.time() + _RECONCILE_INTERVAL
        pause, receipts = _FIRST_PAUSE, None
        while True:
            now = loop.time()
            closely = now >= look_closely or now >= until
            if closely:
                look_closely = now + _RECONCILE_INTERVAL
            receipts = await self._look(message_id, closely) or receipts
            missing = [each for each in receipts or () if not (each.reached(level) or each.refused)]
            if receipts and not missing:
                return receipts
            if now >= until:
                raise _timed_out(message_id, level, readable(patience), receipts or [], missing)
            await asyncio.sleep(min(pause, max(0.0, until - now)))
            pause = min(_LONGEST_PAUSE, pause * 1.5)

    async def _look(self, message_id: str, closely: bool) -> list[Receipt] | None:
        try:
            return await self.status(message_id) if closely else _shown(await self._read(message_id))
        except BrokerUnavailable:
            return None

    async def _read(self, message_id: str) -> Rows:
        rows = await self._store.read(message_id)
        if rows is None:
            raise NoSuchReceipts(
                f"there are no receipts of message {message_id}: it was sent more than seven days ago, or to "
                "no named agents"
            )
        return rows


def _shown(rows: Rows) -> list[Receipt]:
    return [receipt_of(row) for row in rows.rows]


def _timed_out(
    message_id: str, level: str, patience: str, receipts: list[Receipt], missing: list[Receipt]
) -> ReceiptTimeout:
    names = tuple(receipt.agent for receipt in missing)
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    problem = f"not {level} within {patience} by {shown}" if names else "the broker could not be asked"
    return ReceiptTimeout(f"message {message_id}: {problem}", missing=names, receipts=tuple(receipts))
