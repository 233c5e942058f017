"""What waits for one address: frozen batches, one in flight, repeated until answered."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agentbus.broker.durability import Durabilities
from agentbus.broker.inbox import BatchAnswer, Inbox
from agentbus.errors import (
    BrokerError,
    BrokerOutOfMemory,
    BrokerUnavailable,
    KeyConflict,
    NoSuchAgent,
    PublishRefused,
    PublishTimeout,
    QueueFull,
)
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.message.durations import milliseconds
from agentbus.message.policy import Durability, check_durability
from agentbus.send.buffer import Buffer
from agentbus.send.envelope import wants_disk
from agentbus.send.stored import Stored, Waiting
from agentbus.settings import PublisherSettings

NoteAddress = Callable[[str, bool], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages frozen together: the same ones keep the same positions until they are answered."""

    parts: Sequence[Waiting]
    lanes: str
    options: str
    texts: Sequence[bytes]
    size: int

    @property
    def abandoned(self) -> bool:
        """Whether every caller has given up."""
        return all(part.gone for part in self.parts)


class AddressQueue:
    """The messages of one publisher for one address."""

    def __init__(
        self,
        inbox: Inbox,
        settings: PublisherSettings,
        buffer: Buffer,
        durabilities: Durabilities,
        events: Events,
        note_address: NoteAddress,
    ) -> None:
        self._inbox = inbox
        self._settings = settings
        self._buffer = buffer
        self._durabilities = durabilities
        self._events = events
        self._note_address = note_address
        # The record must outlive any repetition: twice the longest deadline, and some.
        self._record_ms = 2 * milliseconds(settings.deadline, "deadline") + 30_000
        self._limits = (
            self._record_ms,
            settings.address_limit,
            milliseconds(settings.key_window, "key_window"),
        )
        self._waiting: deque[Waiting] = deque()
        self._flying: Batch | None = None
        self._task: asyncio.Task[None] | None = None
        self._barriers: set[asyncio.Task[None]] = set()
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
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name=f"agentbus publish {self._inbox.address}")

    async def wait_empty(self) -> None:
        """Wait until everything handed in has its answer."""
        while self._task is not None:
            await asyncio.shield(self._task)
        if self._barriers:
            await asyncio.wait(self._barriers)

    def expire(self, now: float) -> None:
        """Give up for callers whose deadline has passed."""
        if self._flying is not None and self._flying.parts[0].until <= now:
            for part in self._flying.parts:
                if part.until <= now and not part.gone:
                    part.answer(_timed_out(uncertain=True))
        if self._waiting and self._waiting[0].until <= now:
            kept: deque[Waiting] = deque()
            for part in self._waiting:
                if part.until > now:
                    kept.append(part)
                else:
                    part.answer(_timed_out(uncertain=False))
                    self._buffer.remove(1, len(part.outgoing.text))
            self._waiting = kept

    # --- the loop that sends ---

    async def _drain(self) -> None:
        """Send batch after batch; answer the callers of one while the next is with the broker."""
        try:
            answered: tuple[Batch, BatchAnswer] | None = None
            while True:
                batch = self._freeze()
                if batch is None:
                    if answered is None:
                        return
                    self._conclude(*answered)
                    answered = None
                    # Callers run now and may hand in more before this task ends.
                    await asyncio.sleep(0)
                    continue
                answered = await self._send_while_concluding(batch, answered)
        finally:
            self._task = None
            if self._waiting:
                self._task = asyncio.create_task(
                    self._drain(), name=f"agentbus publish {self._inbox.address}"
                )

    async def _send_while_concluding(
        self, batch: Batch, answered: tuple[Batch, BatchAnswer] | None
    ) -> tuple[Batch, BatchAnswer] | None:
        self._flying = batch
        if answered is None:
            answer = await self._store(batch)
        else:
            sending = asyncio.create_task(self._store(batch))
            # One turn, so that the bytes leave before the callers of the last batch take their time.
            await asyncio.sleep(0)
            self._conclude(*answered)
            answer = await sending
        self._flying = None
        return None if answer is None else (batch, answer)

    def _freeze(self) -> Batch | None:
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
        if not parts:
            return None
        options = {
            str(index): part.outgoing.option
            for index, part in enumerate(parts, 1)
            if part.outgoing.option is not None
        }
        return Batch(
            parts=parts,
            lanes="".join([_DIGITS[part.outgoing.lane] for part in parts]),
            options=json.dumps(options) if options else "",
            texts=[part.outgoing.text for part in parts],
            size=size,
        )

    async def _store(self, batch: Batch) -> BatchAnswer | None:
        """Send a batch until it is answered; None when it failed and its callers were told."""
        backoff = Backoff()
        self._renew_idle_producer()
        while True:
            try:
                await self._note_address(self._inbox.address, backoff.failures > 0)
                answer = await self._inbox.publish(
                    self._producer, self._next, batch.lanes, batch.options, batch.texts, self._limits
                )
            except (BrokerUnavailable, BrokerOutOfMemory) as error:
                if batch.abandoned:
                    self._give_up(batch, error)
                    return None
                await asyncio.sleep(backoff.next_pause())
                continue
            except BrokerError as error:
                self._fail(batch, PublishRefused(f"{self._inbox.address}: {error}"))
                return None
            if answer.kind == "gap":
                self._report_gap(answer)
                self._new_producer()
                continue
            if backoff.failures:
                self._events.emit("reconnected", self._inbox.address, "the broker takes messages again")
            self._next += len(batch.parts)
            return answer

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
                self._inbox.address,
                f"the broker lost its record of the last {missing} messages of this publisher, which it had "
                "accepted; it was emptied, or went back to older data",
                missing=missing,
            )

    def _give_up(self, batch: Batch, error: BrokerError) -> None:
        # The batch may still arrive: with a new producer id its positions can never meet ours.
        self._new_producer()
        self._fail(batch, _timed_out(uncertain=not isinstance(error, BrokerOutOfMemory)))

    def _fail(self, batch: Batch, error: Exception) -> None:
        for part in batch.parts:
            part.answer(error)
        self._buffer.remove(len(batch.parts), batch.size)

    # --- telling the callers ---

    def _conclude(self, batch: Batch, answer: BatchAnswer) -> None:
        self._buffer.remove(len(batch.parts), batch.size)
        if answer.kind == "recovered":
            results = self._recovered(batch, answer)
        else:
            results = [
                self._result(part, text, answer.known)
                for part, text in zip(batch.parts, answer.results, strict=True)
            ]
        confirm: dict[Durability, list[tuple[Waiting, Stored]]] = {}
        for part, result in zip(batch.parts, results, strict=True):
            level = self._level_wanted(part, result, answer.durability)
            if level == "stream" or isinstance(result, Exception):
                part.answer(result)
            else:
                confirm.setdefault(level, []).append((part, result))
        for level, parts in confirm.items():
            task = asyncio.create_task(self._confirm(level, parts))
            self._barriers.add(task)
            task.add_done_callback(self._barriers.discard)

    def _level_wanted(self, part: Waiting, result: Stored | Exception, policy: str) -> Durability:
        """Return what to wait for: the message's own level, the address's, or that of its priority."""
        outgoing = part.outgoing
        if isinstance(result, Exception):
            return "stream"
        if outgoing.durability is not None:
            return outgoing.durability
        if policy:
            return check_durability(policy)
        return "disk" if wants_disk(outgoing) and self._durabilities.may_reach_disk else "stream"

    async def _confirm(self, level: Durability, parts: list[tuple[Waiting, Stored]]) -> None:
        """Wait for a level of durability without holding up the next batch."""
        remaining = max(part.until for part, _ in parts) - asyncio.get_running_loop().time()
        reached = await self._durabilities.reach(level, max(0.001, remaining))
        for part, stored in parts:
            part.answer(stored._replace(durability=reached))

    def _recovered(self, batch: Batch, answer: BatchAnswer) -> list[Stored | Exception]:
        refusals = answer.refusals or {}
        results: list[Stored | Exception] = []
        for index, part in enumerate(batch.parts, 1):
            refusal = refusals.get(str(index))
            text = b"" if refusal is None else b"!" + refusal.encode()
            results.append(self._result(part, text, answer.known))
        return results

    def _result(self, part: Waiting, text: bytes, known: bool) -> Stored | Exception:
        outgoing = part.outgoing
        address = outgoing.destination.address
        if text[:1] == b"!":
            return self._refusal(part, text[1:].decode(errors="replace"), known)
        entry_id = None if not text or text.startswith(b"due ") else text.decode()
        return Stored(outgoing.message_id, address, entry_id, "stream", known)

    def _refusal(self, part: Waiting, refusal: str, known: bool) -> Stored | Exception:
        outgoing, address = part.outgoing, self._inbox.address
        reason, _, rest = refusal.partition(" ")
        if reason == "duplicate":
            kind, _, entry_id = rest.partition(" ")
            stored = Stored(outgoing.message_id, address, None, "stream", known, duplicate=True)
            return stored if kind == "due" else stored._replace(entry_id=entry_id)
        if reason == "full":
            return QueueFull(f"{address} holds {self._settings.address_limit:,} unsettled messages")
        if reason == "conflict":
            key = (outgoing.option or {}).get("key", "").partition("/")[2]
            return KeyConflict(f"key: {key!r} was used before for another message to {address}")
        if reason == "unknown":
            return NoSuchAgent(f"nobody has ever served {address}, and strict was asked for")
        if reason == "expires":
            return PublishRefused(f"ttl: the message would expire before the time given with at ({address})")
        return PublishRefused(_explain(rest))


_DIGITS = "01234"


def _explain(problem: str) -> str:
    if "exhausted the last possible" in problem:
        return (
            f"{problem}. Somebody added an entry with the largest possible id, after which a stream takes "
            "no more; `agentbus doctor` tells how to repair it"
        )
    return problem


def _timed_out(uncertain: bool) -> PublishTimeout:
    if uncertain:
        return PublishTimeout(
            "the broker did not answer before the deadline; the message may be stored all the same. "
            "Publish with a key to be able to repeat it safely",
            uncertain=True,
        )
    return PublishTimeout("the broker took no messages before the deadline; this one was never sent")
