"""Sends one message to named agents: one id, a copy in each inbox, receipts for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import uuid_utils

from agentbus.broker.receipts import ReceiptStore, field_of
from agentbus.errors import AgentBusError, BrokerError, BrokerOutOfMemory, BrokerUnavailable, PublishTimeout
from agentbus.message.backoff import Backoff
from agentbus.message.policy import PRIORITIES
from agentbus.recipients.naming import check_channel, check_recipients, check_type
from agentbus.recipients.receipts import Receipts
from agentbus.recipients.sent import Sent, SentTo
from agentbus.send.envelope import Addressing, Outgoing, PublishOptions, Sender, compose
from agentbus.send.publisher import Publisher
from agentbus.send.stored import Stored

Result = TypeVar("Result")
#: Raises `UnknownRecipients` unless all of these are known.
CheckKnown = Callable[[Sequence[str]], Awaitable[None]]
#: Begins the ids of messages that are sent with a key: the same key is the same message, wherever it arrives.
_KEYED = uuid.UUID("6f3c7f0a-6f3f-5c1e-9d3a-0d8c7b1f2e4d")


@dataclass(frozen=True, slots=True)
class Letter:
    """One message to named agents, before it is sent."""

    sender: Sender
    message_type: str
    body: Any
    options: PublishOptions
    addressed: Addressing

    @property
    def topic(self) -> str:
        """Where it is said, or who gets it, and what it is."""
        said_in, names = self.addressed.channel, self.addressed.recipients
        to = names[0] if len(names) == 1 else "*"
        return f"{said_in or f'agent.{to}'}.{self.message_type}"

    def copy_for(self, topic: str, limit_bytes: int) -> Outgoing:
        """Return the copy for one address."""
        return compose(self.sender, topic, self.body, self.options, limit_bytes, self.addressed)


class Sending:
    """Sends messages to named agents."""

    def __init__(
        self, publisher: Publisher, store: ReceiptStore, receipts: Receipts, known: CheckKnown, limit: int
    ) -> None:
        self._publisher = publisher
        self._store = store
        self._receipts = receipts
        self._known = known
        self._limit = limit

    async def send(
        self,
        sender: Sender,
        message_type: str,
        body: Any,
        to: Sequence[str],
        channel: str | None,
        allow_unknown: bool,
        options: PublishOptions,
    ) -> Sent:
        """Send one message to several agents; see `Bus.send`."""
        names, kind = check_recipients(to), check_type(message_type)
        address = None if channel is None else check_channel(channel)
        addressed = Addressing(message_id_for(sender, options), names, "multi", address)
        with self.spanned(Letter(sender, kind, body, options, addressed)) as letter:
            until = self.until(options)
            self.check(letter)
            if not allow_unknown:
                await self.check_known(names, until)
            await self.open(letter, until)
            logged = await self.log(letter, until) if address is not None else None
            return self.result(letter, await self.copies(letter, until), logged)

    # --- the steps, in their order ---

    @contextmanager
    def spanned(self, letter: Letter) -> Iterator[Letter]:
        """Span all steps together; yields the letter with the trace it is part of."""
        of = self._publisher.spanned(letter.sender, letter.topic, letter.addressed.message_id, letter.options)
        with of as options:
            yield replace(letter, options=options)

    def until(self, options: PublishOptions) -> float:
        """Return the loop time up to which all steps together may take."""
        return asyncio.get_running_loop().time() + self._publisher.patience(options)

    def check(self, letter: Letter) -> None:
        """Raise what is wrong with a message before anything of it is sent."""
        addressed = letter.addressed
        if addressed.channel is not None:
            letter.copy_for(f"{addressed.channel}.{letter.message_type}", self._limit)
        longest = max(addressed.recipients, key=len)
        letter.copy_for(f"agent.{longest}.{letter.message_type}", self._limit)

    async def check_known(self, names: Sequence[str], until: float) -> None:
        """Raise `UnknownRecipients` for names that nobody has ever served."""
        await until_answered(lambda: self._known(names), until)

    async def open(self, letter: Letter, until: float) -> None:
        """Open the receipts."""
        about = letter.addressed
        await until_answered(
            lambda: self._store.open(about.message_id, about.recipients, letter.sender.agent, about.channel),
            until,
        )

    async def log(self, letter: Letter, until: float) -> Stored:
        """Append a message to the log of its channel; raises what `Publisher.publish` raises."""
        topic = f"{letter.addressed.channel}.{letter.message_type}"
        copy = letter.copy_for(topic, self._limit)
        (result,) = await self._publisher.publish_each([copy], _within(letter.options, until))
        if isinstance(result, Exception):
            raise result
        return result

    async def copies(self, letter: Letter, until: float) -> list[SentTo]:
        """Put a copy into each inbox, and note who has one; what one refuses hides nothing of the others."""
        results = await self._publisher.publish_each(self._composed(letter), _within(letter.options, until))
        sent = [
            SentTo(agent, None, result) if isinstance(result, Exception) else SentTo(agent, result)
            for agent, result in zip(letter.addressed.recipients, results, strict=True)
        ]
        marks: dict[str, int | str | None] = {}
        for each in sent:
            marks |= _marks_of(each, letter.options)
        # All copies have their answer: whoever reads the receipts finds them in the inboxes.
        with contextlib.suppress(PublishTimeout, BrokerError):
            await until_answered(lambda: self._store.mark({letter.addressed.message_id: marks}), until)
        return sent

    def result(self, letter: Letter, sent: Sequence[SentTo], logged: Stored | None) -> Sent:
        """Return what the caller is told."""
        return Sent(letter.addressed.message_id, tuple(sent), logged, self._receipts)

    def _composed(self, letter: Letter) -> Iterator[Outgoing]:
        # One at a time: a thousand copies of a large body would not fit beside each other.
        for agent in letter.addressed.recipients:
            yield letter.copy_for(f"agent.{agent}.{letter.message_type}", self._limit)


def _within(options: PublishOptions, until: float) -> PublishOptions:
    """Return the options with what is left of the deadline."""
    left = max(0.001, until - asyncio.get_running_loop().time())
    return {**options, "deadline": left}


def message_id_for(sender: Sender, options: PublishOptions) -> str:
    """Return a new id; with a key always the same, so that a repeated send completes the first one."""
    key = options.get("key")
    if key is None:
        return str(uuid_utils.uuid7())
    return str(uuid.uuid5(_KEYED, f"{sender.agent or ''}/{key}"))


async def until_answered(
    step: Callable[[], Awaitable[Result]], until: float, so_far: str = "nothing was sent"
) -> Result:
    """Repeat a step that changes nothing twice until the broker answers, or the deadline has passed."""
    backoff, problem = Backoff(), "the broker did not answer"
    try:
        async with asyncio.timeout_at(until):
            while True:
                try:
                    return await step()
                except (BrokerUnavailable, BrokerOutOfMemory) as error:
                    problem = str(error)
                    await asyncio.sleep(backoff.next_pause())
    except TimeoutError:
        raise PublishTimeout(f"{so_far} before the deadline: {problem}", uncertain=False) from None


def _marks_of(sent: SentTo, options: PublishOptions) -> dict[str, int | str | None]:
    if sent.stored is not None:
        marks: dict[str, int | str | None] = {field_of(sent.agent, "stored"): None}
        if sent.stored.entry_id is not None:
            lane = options.get("priority", "normal")
            assert lane in PRIORITIES, "compose checked it"
            time = int(sent.stored.entry_id.partition("-")[0])
            marks[field_of(sent.agent, "stored")] = time
            marks[field_of(sent.agent, "entry")] = f"{lane} {sent.stored.entry_id}"
        return marks
    if isinstance(sent.error, PublishTimeout) and sent.error.uncertain:
        # It may be there: whoever reads the receipts looks.
        return {}
    return {field_of(sent.agent, "unstored"): _why(sent.error)}


def _why(error: Exception | None) -> str:
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, AgentBusError) else kind
