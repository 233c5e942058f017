"""What waits for one address: frozen batches, one in flight, repeated until answered."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from agentbus.broker.durability import Durabilities
from agentbus.broker.inbox import BatchAnswer
from agentbus.broker.wake import Announcer
from agentbus.errors import BrokerError, BrokerOutOfMemory, BrokerUnavailable, PublishRefused
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.message.durations import milliseconds
from agentbus.message.policy import DURABILITIES, Durability, check_durability
from agentbus.send.batch import Batch, freeze
from agentbus.send.buffer import Buffer
from agentbus.send.envelope import wants_disk
from agentbus.send.forwarding import Followers, Forwarding, Told
from agentbus.send.stored import Stored, Waiting
from agentbus.send.verdicts import broken_off, first_due, timed_out, verdicts
from agentbus.settings import PublisherSettings

NoteAddress = Callable[[str, bool], Awaitable[None]]


class Target(Protocol):
    """What a queue sends to: an inbox or a channel."""

    address: str

    async def publish(
        self,
        producer: str,
        first: int,
        lanes: str,
        options: str,
        texts: Sequence[bytes],
        limits: tuple[int, int, int],
    ) -> BatchAnswer:
        """Store one frozen batch."""


class AddressQueue:
    """The messages of one publisher for one address."""

    def __init__(
        self,
        target: Target,
        settings: PublisherSettings,
        buffer: Buffer,
        durabilities: Durabilities,
        events: Events,
        note_address: NoteAddress,
        announcer: Announcer,
        forwarding: Forwarding,
    ) -> None:
        self._target = target
        self._settings = settings
        self._buffer = buffer
        self._durabilities = durabilities
        self._events = events
        self._note_address = note_address
        self._announcer = announcer
        self._forwarding = forwarding
        self._followers = Followers(forwarding, buffer)
        # The record must outlive any repetition: twice the longest deadline, and some.
        self._record_ms = 2 * milliseconds(settings.deadline, "deadline") + 30_000
        self._limits = (
            self._record_ms,
            settings.address_limit,
            milliseconds(settings.key_window, "key_window"),
        )
        self._waiting: deque[Waiting] = deque()
        #: The earliest deadline of anything waiting or in flight, or earlier.
        self._earliest = math.inf
        self._flying: Batch | None = None
        #: Whether the flying batch may have reached the server.
        self._sent = False
        #: Whether the deadline of a caller of the flying batch has passed.
        self._deserted = False
        #: Answered, and its callers not told yet.
        self._answered: tuple[Batch, BatchAnswer] | None = None
        self._task: asyncio.Task[None] | None = None
        self._besides: set[asyncio.Task[None]] = set()
        self._last_used = 0.0
        self._new_producer()

    def _new_producer(self) -> None:
        """Begin to count anew: whatever may still arrive of the old batches can never collide."""
        self._producer = secrets.token_hex(8)
        self._next = 1

    @property
    def busy(self) -> bool:
        """Whether anything waits or is in flight."""
        return self._task is not None

    def add(self, waiting: Waiting) -> None:
        """Take one message; it leaves with all others of this turn of the event loop."""
        self._waiting.append(waiting)
        if waiting.until < self._earliest:
            self._earliest = waiting.until
        if self._task is None:
            self._start()

    def _start(self) -> None:
        self._task = asyncio.create_task(self._drain(), name=f"agentbus publish {self._target.address}")

    async def wait_empty(self) -> None:
        """Wait until everything handed in has its answer."""
        while self._task is not None:
            await asyncio.wait((self._task,))
        while self._besides:
            await asyncio.wait(self._besides)

    def expire(self, now: float) -> None:
        """Give up for callers whose deadline has passed; each may have its own."""
        if now < self._earliest:
            return
        flying = () if self._flying is None else self._flying.parts
        for part in flying:
            if part.until <= now and not part.gone:
                part.answer(timed_out(uncertain=self._sent))
                self._deserted = True
        kept: deque[Waiting] = deque()
        for part in self._waiting:
            if part.until > now:
                kept.append(part)
            else:
                part.answer(timed_out(uncertain=False))
                self._buffer.remove(1, len(part.outgoing.text))
        self._waiting = kept
        self._earliest = min(
            (part.until for parts in (flying, kept) for part in parts if not part.gone), default=math.inf
        )

    # --- the loop that sends ---

    async def _drain(self) -> None:
        """Send batch after batch; answer the callers of one while the next is with the broker."""
        try:
            while True:
                batch = self._next_batch()
                if batch is not None:
                    await self._send(batch)
                elif self._answered is not None:
                    self._conclude()
                    # Callers run now and may hand in more before this task ends.
                    await asyncio.sleep(0)
                else:
                    break
        except BaseException as error:
            self._break_off(error)
            raise
        finally:
            self._task = None
            if self._waiting:
                self._start()

    def _next_batch(self) -> Batch | None:
        parts: list[Waiting] = []
        size = 0
        while self._waiting and len(parts) < self._settings.batch_messages:
            part = self._waiting[0]
            length = len(part.outgoing.text)
            if parts and size + length > self._settings.batch_bytes:
                break
            self._waiting.popleft()
            if part.gone:
                self._buffer.remove(1, length)
                continue
            parts.append(part)
            size += length
        return freeze(parts) if parts else None

    async def _send(self, batch: Batch) -> None:
        self._flying, self._sent, self._deserted = batch, False, False
        if self._answered is None:
            await self._store()
            return
        sending = asyncio.create_task(self._store())
        try:
            # One turn, so that the bytes leave before the callers of the last batch take their time.
            await asyncio.sleep(0)
            self._conclude()
            await sending
        except BaseException:
            sending.cancel()
            raise

    async def _store(self) -> None:
        """Send the flying batch until it is answered, or everybody who asked for it has gone."""
        backoff = Backoff()
        self._renew_idle_producer()
        while (batch := self._flying) is not None:
            try:
                answer = await self._attempt(again=backoff.failures > 0)
            except BrokerError as error:
                self._fail(PublishRefused(f"{self._target.address}: {error}"))
                return
            if answer is None:
                self._let_go()
                await asyncio.sleep(backoff.next_pause() if self._flying else 0)
                self._let_go()
            elif answer.kind == "gap":
                self._report_gap(answer)
                self._new_producer()
            else:
                batch = self._flying or batch
                self._note_answer(batch, answer, after_failure=backoff.failures > 0)
                if (first := first_due(batch, answer)) is not None:
                    # Before the callers hear of it: what they do next may count on the time they asked for.
                    await self._announcer.announce(self._target.address, first)

    async def _attempt(self, again: bool) -> BatchAnswer | None:
        """Send the flying batch once; None when the broker cannot take it now."""
        try:
            # Once sent, it is too late to ask who else wants it.
            if not self._forwarding.fresh:
                await self._forwarding.ensure_fresh()
            await self._note_address(self._target.address, again)
            owed = None if self._forwarding.quiet else await self._owed(again)
        except (BrokerUnavailable, BrokerOutOfMemory):
            return None
        if self._deserted:
            self._let_go()
        batch = self._flying
        if batch is None:
            return None
        sent_before, self._sent = self._sent, True
        # A repetition may note something else: it is answered from the record, or it is the first to arrive.
        options = batch.options_with(owed) if owed else batch.options
        try:
            return await self._target.publish(
                self._producer, self._next, batch.lanes, options, batch.texts, self._limits
            )
        except BrokerUnavailable as error:
            self._sent = sent_before or error.uncertain
        except BrokerOutOfMemory:
            self._sent = sent_before
        return None

    async def _owed(self, again: bool) -> Mapping[str, Sequence[str]]:
        """Return, by topic, to whom copies of messages of the flying batch are owed once it is stored."""
        if self._flying is None:
            return {}
        owed = self._forwarding.owed(self._flying.topics)
        if owed:
            await self._forwarding.expect(self._target.address, again)
        return owed

    def _note_answer(self, batch: Batch, answer: BatchAnswer, after_failure: bool) -> None:
        self._next += len(batch.parts)
        self._flying = None
        self._answered = (batch, answer)
        if after_failure:
            # The server may have come back with another configuration.
            self._durabilities.forget_server()
            self._events.emit("reconnected", self._target.address, "the broker takes messages again")

    def _let_go(self) -> None:
        """Leave out who has given up, as long as the batch was never sent; once sent, it is all or none."""
        batch = self._flying
        if batch is None:
            return
        if not self._sent:
            kept = [part for part in batch.parts if not part.gone]
            if len(kept) < len(batch.parts):
                self._flying = freeze(kept) if kept else None
                size = 0 if self._flying is None else self._flying.size
                self._buffer.remove(len(batch.parts) - len(kept), batch.size - size)
        elif batch.abandoned:
            # It may still arrive: with a new producer id its positions can never meet ours.
            self._new_producer()
            self._fail(timed_out(uncertain=True))

    def _renew_idle_producer(self) -> None:
        """Begin anew after a pause in which the server may have let the record expire."""
        now = asyncio.get_running_loop().time()
        if now - self._last_used > self._record_ms / 2000:
            self._new_producer()
        self._last_used = now

    def _report_gap(self, answer: BatchAnswer) -> None:
        # The batch itself was not stored (nothing is written on a gap), so sending it anew is safe.
        missing = self._next - 1 - answer.last
        if missing > 0:
            self._events.emit(
                "data_lost",
                self._target.address,
                f"the broker lost its record of the last {missing} messages of this publisher, which it had "
                "accepted; it was emptied, or went back to older data",
                missing=missing,
            )

    def _fail(self, error: BaseException) -> None:
        """Tell the callers of the flying batch that it failed."""
        batch, self._flying = self._flying, None
        if batch is not None:
            for part in batch.parts:
                part.answer(error if isinstance(error, Exception) else broken_off(self._sent))
            self._buffer.remove(len(batch.parts), batch.size)

    def _break_off(self, error: BaseException) -> None:
        """Leave no caller waiting when this task is cancelled, or ends by a mistake of ours."""
        if self._answered is not None:
            self._conclude()
        if self._flying is not None:
            # A request of it may be on its way: the next batch must not be answered from its record.
            self._new_producer()
            self._fail(error)
        if isinstance(error, asyncio.CancelledError):
            # The program or its loop ends; a new task would be destroyed with it.
            for part in self._waiting:
                part.answer(broken_off(uncertain=False))
                self._buffer.remove(1, len(part.outgoing.text))
            self._waiting.clear()

    # --- telling the callers ---

    def _conclude(self) -> None:
        """Tell the callers of the answered batch."""
        if self._answered is None:
            return
        (batch, answer), self._answered = self._answered, None
        self._buffer.remove(len(batch.parts), batch.size)
        results = verdicts(batch, answer, self._settings.address_limit)
        told: Iterable[Told] = zip(batch.parts, results, strict=True)
        tell = partial(self._tell, answer.durability)
        if not self._forwarding.quiet:
            concerned, told = self._followers.concerned(told)
            if concerned:
                self._beside(self._followers.follow(concerned, tell))
        tell(told)

    def _tell(self, policy: str, told: Iterable[Told]) -> None:
        confirm: dict[Durability, list[tuple[Waiting, Stored]]] = {}
        for part, result in told:
            level = self._level_wanted(part, result, policy)
            if level == "stream" or isinstance(result, Exception):
                part.answer(result)
            else:
                confirm.setdefault(level, []).append((part, result))
        for level, parts in confirm.items():
            self._beside(self._confirm(level, parts))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what must not hold up the next batch."""
        task = asyncio.create_task(work)
        self._besides.add(task)
        task.add_done_callback(self._besides.discard)

    def _level_wanted(self, part: Waiting, result: Stored | Exception, policy: str) -> Durability:
        """Return what to wait for: the message's own level, the address's, or that of its priority."""
        outgoing = part.outgoing
        if isinstance(result, Exception):
            return "stream"
        if outgoing.durability is not None:
            return outgoing.durability
        if " " in policy:
            policy = _level_of_type(policy, outgoing.destination.message_type)
        # A policy written by hand may say anything; the message is stored, so it must not raise here.
        if policy in DURABILITIES:
            return check_durability(policy)
        return "disk" if wants_disk(outgoing) and self._durabilities.may_reach_disk else "stream"

    async def _confirm(self, level: Durability, parts: list[tuple[Waiting, Stored]]) -> None:
        """Wait for a level of durability without holding up the next batch."""
        loop = asyncio.get_running_loop()
        latest = max(part.until for part, _ in parts)
        for part, stored in parts:
            if part.until < latest:
                # Its own deadline ends its wait: stored, with the level reached until then.
                loop.call_at(part.until, part.answer, stored)
        reached = await self._durabilities.reach(level, max(0.001, latest - loop.time()))
        for part, stored in parts:
            part.answer(stored._replace(durability=reached))


def _level_of_type(policy: str, message_type: str) -> str:
    """Return the level for one message type out of ``<level> <type>=<level> …``."""
    level, *topics = policy.split(" ")
    return dict(topic.split("=", 1) for topic in topics if "=" in topic).get(message_type, level)
