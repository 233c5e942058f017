"""Carries out outcomes: processed ones in batches, the others each by its script; never in anybody's way.

A settlement stays the business of this process until the broker has answered it: it is sent again after a
lost reply, and what it settles stays in the local map until then, so that the audit does not mistake it for
work that nobody saw.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from agentbus.broker.answers import Burial
from agentbus.broker.wake import Announcer
from agentbus.errors import BrokerError, BrokerOutOfMemory, BrokerUnavailable, StaleDelivery
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.message.message import Message
from agentbus.receive.delivery import Delivery, Source
from agentbus.receive.execution import Execution
from agentbus.receive.outcome import PROCESSED, Kind, Outcome
from agentbus.receive.place import Place

_MOST_IN_BATCH = 1_000
_MOST_AT_ONCE = 8


@dataclass(slots=True)
class Settlement:
    """One outcome to be carried out."""

    delivery: Delivery
    outcome: Outcome
    #: Told when the broker has answered; None when nobody waits.
    done: asyncio.Future[None] | None = None


class Settler:
    """Settles for one consumer."""

    def __init__(
        self,
        consumer: str,
        sources: Sequence[Source],
        execution: Execution,
        events: Events,
        fenced: Callable[[str], None],
        announcer: Announcer,
    ) -> None:
        self._consumer = consumer
        self._sources = sources
        self._execution = execution
        self._events = events
        self._fenced = fenced
        self._announcer = announcer
        self._others: deque[Settlement] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._unsettled = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure: BaseException | None = None

    # --- what the runners call ---

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Take an outcome; carried out soon, in the background."""
        if delivery.outcome is not None:
            return
        delivery.outcome = outcome
        self._unsettled += 1
        if outcome.kind is Kind.PROCESSED:
            delivery.source.finished.append(delivery.entry.entry_id)
        else:
            self._others.append(Settlement(delivery, outcome))
        self._wake.set()

    async def settle_now(self, delivery: Delivery, outcome: Outcome, answer: bool = True) -> None:
        """Carry out an outcome and wait for the broker; raises `StaleDelivery` when the lease is lost."""
        if delivery.revoked:
            raise StaleDelivery
        delivery.outcome = outcome
        try:
            if answer:
                await self._execution.answer(delivery, outcome)
        except BaseException:
            # Cancelled before anything was settled: whoever holds the delivery decides anew.
            delivery.outcome = None
            raise
        self._unsettled += 1
        settlement = Settlement(delivery, outcome, asyncio.get_running_loop().create_future())
        self._others.append(settlement)
        self._wake.set()
        assert settlement.done is not None
        # A caller that is cancelled while it waits must not leave an exception that nobody fetches.
        settlement.done.add_done_callback(lambda done: done.exception())
        await asyncio.shield(settlement.done)

    def failed(self, delivery: Delivery, error: Exception) -> Outcome:
        """Return what follows from an exception."""
        return self._execution.failed(delivery, error)

    @property
    def unsettled(self) -> int:
        """Outcomes that the broker has not confirmed."""
        return self._unsettled

    async def wait_idle(self) -> None:
        """Wait until the broker has confirmed everything."""
        while self._unsettled:
            self._idle.clear()
            await self._idle.wait()

    def abandon(self) -> None:
        """The lease is lost: nobody waits for these settlements any more."""
        for settlement in self._others:
            _tell(settlement, StaleDelivery())
        self._others.clear()
        for task in self._sending:
            task.cancel()

    # --- the child task ---

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._failure is not None:
                # A settlement failed in a way that nobody foresaw. Going on would keep its message for ever.
                raise self._failure
            self._start_others()
            for inbox, batch in self._batches():
                await self._settle_batch(inbox, batch)

    def _batches(self) -> list[tuple[Place, dict[int, list[bytes]]]]:
        """Freeze what is finished, per inbox: a repeated settlement must name the same entries."""
        batches: dict[Place, dict[int, list[bytes]]] = {}
        for source in self._sources:
            if source.finished:
                ids = source.finished[:_MOST_IN_BATCH]
                del source.finished[:_MOST_IN_BATCH]
                if source.finished:
                    self._wake.set()
                batches.setdefault(source.inbox, {})[source.index] = ids
        return list(batches.items())

    async def _settle_batch(self, inbox: Place, batch: Mapping[int, list[bytes]]) -> None:
        with self._execution.spans.settling(inbox.address, lambda: self._messages(inbox, batch)):
            await self._until_answered(lambda: inbox.settle(self._consumer, Kind.PROCESSED, batch))
        for source in self._sources:
            if source.inbox is inbox and source.index in batch:
                for entry_id in batch[source.index]:
                    delivery = source.held.pop(entry_id, None)
                    if delivery is not None and delivery.receipt is not None:
                        delivery.receipt.ended(PROCESSED)
                self._confirm(len(batch[source.index]))

    def _messages(self, place: Place, batch: Mapping[int, list[bytes]]) -> list[Message]:
        return [
            source.held[entry_id].message
            for source in self._sources
            if source.inbox is place
            for entry_id in batch.get(source.index, ())
            if entry_id in source.held
        ]

    def _start_others(self) -> None:
        while self._others and len(self._sending) < _MOST_AT_ONCE:
            task = asyncio.create_task(self._settle_other(self._others.popleft()), name="agentbus settlement")
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._wake.set()
        if self._others:
            self._wake.set()

    async def _settle_other(self, settlement: Settlement) -> None:
        delivery = settlement.delivery
        try:
            await self._until_answered(lambda: self._apply(delivery, settlement.outcome))
        except BaseException as error:
            _tell(settlement, StaleDelivery() if isinstance(error, asyncio.CancelledError) else error)
            raise
        delivery.source.held.pop(delivery.entry.entry_id, None)
        if delivery.receipt is not None:
            delivery.receipt.ended(settlement.outcome)
        self._confirm(1)
        _tell(settlement, None)

    def _confirm(self, count: int) -> None:
        self._unsettled -= count
        if self._unsettled == 0:
            self._idle.set()

    async def _apply(self, delivery: Delivery, outcome: Outcome) -> object:
        """Carry out one outcome by its script."""
        inbox, entry, kind = delivery.source.inbox, delivery.entry, outcome.kind
        one = {entry.source: (entry.entry_id,)}
        if kind is Kind.RELEASED:
            return await inbox.release(self._consumer, one)
        if kind in (Kind.PROCESSED, Kind.EXPIRED, Kind.DISCARDED):
            if kind is Kind.DISCARDED:
                self._announce("discarded", delivery, outcome)
            return await inbox.settle(self._consumer, kind, one)
        failure = "" if kind is Kind.DEFERRED else _failure(self._consumer, delivery, outcome)
        if kind is Kind.DEAD:
            self._announce("dead_letter", delivery, outcome)
            return await self._bury(delivery, outcome, failure)
        if kind is Kind.BOUNCED:
            failure = ""
        due_ms = await inbox.postpone(
            self._consumer, entry, outcome.delay_ms, kind, failure, delivery.message.message_id
        )
        if due_ms is not None:
            await self._announcer.announce(inbox.address, due_ms)
        return due_ms

    async def _bury(self, delivery: Delivery, outcome: Outcome, failure: str) -> Burial | None:
        burial = await delivery.source.inbox.bury(
            self._consumer, delivery.entry, outcome.reason, outcome.detail, failure, outcome.max_retries
        )
        if burial is not None and burial.parked_until_ms is not None:
            self._announce("dead_letters_full", delivery, outcome)
            await self._announcer.announce(delivery.address, burial.parked_until_ms)
        return burial

    def _announce(self, action: str, delivery: Delivery, outcome: Outcome) -> None:
        message = delivery.message
        self._events.emit(
            action,
            delivery.address,
            f"{message.message_type} {message.message_id}: {outcome.reason}: {outcome.detail}",
            message_id=message.message_id,
            reason=outcome.reason,
        )

    async def _until_answered(self, step: Callable[[], Awaitable[object]]) -> None:
        """Repeat one settlement until the broker has answered it."""
        backoff = Backoff()
        while True:
            try:
                await step()
                return
            except (BrokerUnavailable, BrokerOutOfMemory):
                await asyncio.sleep(backoff.next_pause())
            except StaleDelivery as error:
                self._events.emit("stale_settlement", "", str(error), consumer=self._consumer)
                self._fenced(str(error))
                raise asyncio.CancelledError from error
            except BrokerError as error:
                # A key of the wrong type or a missing right: the entry stays pending, and the message with
                # it, until somebody repairs the server. Slowly, and visibly.
                self._events.emit("settlement_refused", "", str(error), consumer=self._consumer)
                await asyncio.sleep(max(1.0, backoff.next_pause()))


def _tell(settlement: Settlement, error: BaseException | None) -> None:
    done = settlement.done
    if done is None or done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _failure(consumer: str, delivery: Delivery, outcome: Outcome) -> str:
    return json.dumps(
        {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "reason": outcome.reason,
            "error": outcome.detail,
            "attempt": delivery.attempt,
            "consumer": consumer,
        }
    )
