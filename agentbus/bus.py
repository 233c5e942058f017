"""The bus: what users hold. Wires the rooms; does nothing of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack, cast

from agentbus.bindings.bindings import Binding, list_bindings
from agentbus.bindings.companion import BindingCompanion
from agentbus.bindings.forwarding import Forwarder
from agentbus.bindings.table import BindingTable
from agentbus.broker.bindings import BindingStore
from agentbus.broker.carry import Carrier
from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.conversations import ConversationStore
from agentbus.broker.embedded import EmbeddedSettings, ensure_running
from agentbus.broker.inspection import InboxView, Trace, inspect_inbox, known_addresses, trace_message
from agentbus.broker.keys import archive as archive_key
from agentbus.broker.keys import check_prefix, ticking
from agentbus.broker.log_watch import LogWatch
from agentbus.broker.policy_store import PolicyStore
from agentbus.broker.receipts import ReceiptStore
from agentbus.broker.registry import Description, Registry
from agentbus.broker.schedules import ScheduleStore
from agentbus.broker.server import check_safe
from agentbus.broker.server_clock import jump_told
from agentbus.broker.wake import Announcer, Wake
from agentbus.cancellation import Cancellation, Cancelled
from agentbus.channels import Channels
from agentbus.conversations.access import check_identity, check_may_read, may_read, own_conversation
from agentbus.conversations.conversation import Conversation
from agentbus.conversations.conversations import DIRECT, Conversations
from agentbus.dead_letters import DeadLetters
from agentbus.declarations import Declarations
from agentbus.errors import AgentBusError, ConfigurationError, InvalidValue
from agentbus.events import Events
from agentbus.fleet.directory import Directory
from agentbus.fleet.info import AgentInfo
from agentbus.fleet.registration import Registration
from agentbus.history.archived import LazyArchive
from agentbus.history.conversation import ConversationTrace, trace_conversation
from agentbus.history.entry import HistoryPage
from agentbus.history.history import History
from agentbus.history.query import HistoryFilters
from agentbus.live.live import EmitOptions, Live
from agentbus.live.watch import Watch
from agentbus.message.address_policy import Policy
from agentbus.message.current import handling
from agentbus.message.durations import Duration, milliseconds
from agentbus.message.message import Message
from agentbus.message.patterns import parse_pattern
from agentbus.message.reply_address import PartMark
from agentbus.message.topics import check_name, parse_address, parse_inbox
from agentbus.projects import ProjectDeleted, ProjectDeletion, RowEraser
from agentbus.projects.deletion import AUDIT_TOPIC
from agentbus.receive.agent import Agent
from agentbus.receive.grounds import Grounds
from agentbus.receive.lease import Heart
from agentbus.receive.life import first_error
from agentbus.receive.outcome import ACKNOWLEDGED, Outcome
from agentbus.receive.pulling import PulledDelivery, Puller
from agentbus.receive.subscriber import Subscriber, until_ready
from agentbus.receive.workload import SuspectGate
from agentbus.recipients.marks import Marks
from agentbus.recipients.receipt import Receipt
from agentbus.recipients.receipts import Receipts
from agentbus.recipients.sending import Sending
from agentbus.recipients.sent import Sent
from agentbus.replay import Replay, Replayed, ReplayFilters, ReplayProgress
from agentbus.replay.plan import new_plan
from agentbus.schedules.schedules import Schedules
from agentbus.send.collecting import Answers, Collecting, OpenQuestion
from agentbus.send.envelope import AnyTopic, MessageOptions, Outgoing, PublishOptions, Sender, compose
from agentbus.send.publisher import Publisher
from agentbus.send.replies import Replies
from agentbus.send.requests import Answering, Requests
from agentbus.send.stored import Stored
from agentbus.send.streaming import StreamOptions, Streams
from agentbus.settings import (
    EMBEDDED_URL,
    BusSettings,
    archive_dsn,
    broker_url,
    default_agent,
    default_settings,
    embedded_home,
    embedded_server,
)
from agentbus.status.reading import last_published, read_status
from agentbus.status.values import BusStatus


@dataclass(frozen=True, slots=True)
class _Rooms:
    """What an open bus is made of."""

    broker: Broker
    publisher: Publisher
    replies: Replies
    grounds: Grounds
    policies: Declarations
    registry: Registry
    history: History
    archive: LazyArchive | None
    bindings: BindingStore
    table: BindingTable
    forwarder: Forwarder
    live: Live


class Bus:
    """One process's place on the bus.

    ``url`` is ``redis://``, ``rediss://``, ``unix://`` or ``embedded://``; left out, AGENTBUS_URL is used.
    ``agent`` is the name messages are sent under. Use it as an async context manager; opening checks that
    the server is safe to use, and raises `NoBroker`, `BrokerUnavailable` or `UnsafeBroker`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        agent: str | None = None,
        type: str | None = None,
        settings: BusSettings | None = None,
    ) -> None:
        self._url = broker_url(url)
        name = agent if agent is not None else default_agent()
        self._sender = Sender(check_name(name, "agent") if name is not None else None, type or name)
        self.settings = settings or default_settings()
        check_prefix(self.settings.prefix)
        #: What happened that nobody asked for; see `agentbus.events`.
        self.events = Events()
        self._rooms: _Rooms | None = None
        self._pulls: dict[str, Puller] = {}
        #: Those of `pulling` blocks; a loop left with `break` may still be handing back when the bus closes.
        self._pullers: set[Puller] = set()

    # --- life ---

    async def __aenter__(self) -> Bus:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect and check the server."""
        if self._rooms is not None:
            return
        url = await _resolved(self._url)
        broker = Broker(self._connection(url, "bus"))
        try:
            await check_safe(broker, self.events, self.settings.allow_eviction)
        except AgentBusError:
            await broker.close()
            raise
        key_window_ms = milliseconds(self.settings.publisher.key_window, "key_window")
        announcer = Announcer(broker, self.settings.prefix, self.events)
        carrier = Carrier(broker, self.settings.prefix, key_window_ms, announcer)
        bindings = BindingStore(broker, self.settings.prefix)
        table = BindingTable(bindings, self.events)
        forwarder = Forwarder(broker, self.settings.prefix, table, bindings, carrier)
        publisher = Publisher(
            broker,
            self.settings.prefix,
            self._sender,
            self.settings.publisher,
            self.events,
            forwarder,
        )
        dsn = self.settings.archive or archive_dsn()
        archive = LazyArchive(dsn, self.settings.prefix) if dsn else None
        self._rooms = _Rooms(
            broker,
            publisher,
            Replies(broker, self.settings.prefix, self.events),
            Grounds(
                broker,
                self.settings.prefix,
                Heart(
                    lambda: Broker(self._connection(url, "heart")),
                    lambda jump: self.events.emit("clock_jump", "", jump_told(jump), seconds=jump),
                ),
                self.events,
                SuspectGate(),
                self.settings.retention,
                key_window_ms,
                carrier,
                LogWatch(broker),
            ),
            Declarations(PolicyStore(broker, self.settings.prefix)),
            Registry(broker, self.settings.prefix),
            History(broker, self.settings.prefix, archive),
            archive,
            bindings,
            table,
            forwarder,
            Live(broker, self.settings.prefix, self.events, self._composed),
        )

    async def close(self) -> None:
        """Send what is buffered, hand back what was pulled, disconnect."""
        rooms, self._rooms = self._rooms, None
        if rooms is None:
            return
        for puller in (*self._pulls.values(), *self._pullers):
            await puller.close()
        self._pulls.clear()
        await rooms.live.close()
        await rooms.replies.close()
        await rooms.publisher.close()
        await rooms.grounds.watch.close()
        await rooms.grounds.heart.stop()
        if rooms.archive is not None:
            await rooms.archive.close()
        await rooms.broker.close()

    def _connection(self, url: str, role: str) -> ConnectionSettings:
        return ConnectionSettings(
            url=url,
            client_name=f"agentbus:{self._sender.agent or 'anonymous'}:{role}",
            command_timeout=self.settings.command_timeout,
        )

    @property
    def rooms(self) -> _Rooms:
        """The open parts; raises `ConfigurationError` when the bus is not open."""
        if self._rooms is None:
            raise ConfigurationError("the bus is not open; write `async with Bus(...) as bus:`")
        return self._rooms

    @property
    def publisher(self) -> Publisher:
        """The way out."""
        return self.rooms.publisher

    # --- sending ---

    def publish(
        self, topic: AnyTopic, body: Any, **options: Unpack[PublishOptions]
    ) -> Coroutine[Any, Any, Stored]:
        """Send one message; see `Publisher.publish` for the options and errors."""
        return self.rooms.publisher.publish_as(self._sender, topic, body, options)

    async def publish_many(
        self, topic: AnyTopic, bodies: Iterable[Any], **options: Unpack[PublishOptions]
    ) -> list[Stored | Exception]:
        """Send many messages to one topic; see `Publisher.publish_many`."""
        return await self.rooms.publisher.publish_many(topic, bodies, **options)

    async def send(
        self,
        message_type: str,
        body: Any,
        *,
        to: Sequence[str],
        channel: str | None = None,
        allow_unknown: bool = False,
        **options: Unpack[PublishOptions],
    ) -> Sent:
        """Send one message to several agents: one id, a copy in the inbox of each, receipts for all.

        With ``channel`` it is said in that channel: it also stands in its log. Returns when every copy is
        stored or refused; ``sent.refused`` names those that did not take it. Raises `UnknownRecipients`
        before anything is sent when a name was never registered, unless ``allow_unknown``; `InvalidValue`
        for an empty list, a name twice or more than 1,000 names; and what `Publisher.publish` raises when
        the channel does not take it.
        """
        return await self._sending().send(
            self._sender, message_type, body, to, channel, allow_unknown, options
        )

    def _sending(self) -> Sending:
        rooms = self.rooms
        return Sending(
            rooms.publisher,
            ReceiptStore(rooms.broker, self.settings.prefix),
            Receipts(rooms.broker, self.settings.prefix),
            Directory(rooms.registry).check_known,
            self.settings.publisher.message_bytes,
        )

    async def receipts(self, message_id: str) -> list[Receipt]:
        """Return how it is with each recipient of a message: stored, delivered, read, processed, refused.

        Receipts are kept for seven days; raises `NoSuchReceipts` for a message that has none.
        """
        return await Receipts(self.rooms.broker, self.settings.prefix).status(message_id)

    async def request(
        self,
        topic: AnyTopic,
        body: Any,
        *,
        reply: type[Any] | None = None,
        timeout: Duration = 30.0,
        **options: Unpack[PublishOptions],
    ) -> Any:
        """Ask, and return the content of the answer, as ``reply`` if given.

        Raises `RequestTimeout`, or `RequestFailed` at once when the request was rejected or its handler
        failed for good.
        """
        rooms = self.rooms
        return await Requests(rooms.publisher, rooms.replies).request(topic, body, reply, timeout, options)

    def stream(
        self,
        topic: AnyTopic,
        body: Any,
        *,
        timeout: Duration = 30.0,
        idle_timeout: Duration | None = None,
        part: type[Any] | None = None,
        mark_restarts: bool = False,
        **options: Unpack[PublishOptions],
    ) -> AsyncGenerator[Any, None]:
        """Ask, and yield the parts of the answer as they come, each as ``part`` if given.

        ``timeout`` is for the whole answer, ``idle_timeout`` until the first part and between two. A handler
        that sends no parts has one: what it returns. When the handler begins anew (a retry, another owner
        after a death), `StreamRestarted` is raised, or with ``mark_restarts`` a `Restarted` yielded: parts
        before it are not part of the answer. Raises also `PartsMissing`, and what `request` raises.
        """
        how = StreamOptions.of(timeout, idle_timeout, part, mark_restarts)
        return Streams(self.rooms.publisher, self.rooms.replies).stream(topic, body, how, options)

    def collecting(
        self,
        topic: AnyTopic,
        body: Any,
        *,
        deadline: Duration = 30.0,
        expect: int | None = None,
        reply: type[Any] | None = None,
        **options: Unpack[MessageOptions],
    ) -> Collecting:
        """Ask everybody who subscribes to a channel; iterate over the answers as they come.

        Ends when all who subscribed at the time of asking have answered (with ``expect``: when so many
        answers came), or at the deadline. Of each agent the first answer counts. Raises `InvalidTopic`,
        `InvalidValue`, `RequestTimeout` when the question could not be stored, and what `publish` raises.
        """
        rooms = self.rooms
        question = OpenQuestion.of(topic, body, reply, deadline, expect, options)
        return Collecting(rooms.broker, self.settings.prefix, rooms.publisher, rooms.replies, question)

    async def collect(
        self,
        topic: AnyTopic,
        body: Any,
        *,
        deadline: Duration = 30.0,
        expect: int | None = None,
        reply: type[Any] | None = None,
        **options: Unpack[MessageOptions],
    ) -> Answers:
        """Ask everybody who subscribes to a channel, and return all answers; see `collecting`."""
        asking = self.collecting(topic, body, deadline=deadline, expect=expect, reply=reply, **options)
        return await asking.all()

    # --- direct messages ---

    async def dm(
        self,
        to: str,
        body: Any,
        *,
        type: str = DIRECT,
        allow_unknown: bool = False,
        **options: Unpack[PublishOptions],
    ) -> Sent:
        """Say something to one agent: it stands in the conversation of the two, and in the agent's inbox.

        Returns when both are stored. Raises `UnknownRecipients` when nobody was ever served under that name,
        unless ``allow_unknown``, `InvalidValue` for a message to oneself, `ConfigurationError` for a bus
        without an agent name, and what `Publisher.publish` raises.
        """
        return await self._conversations().send(to, body, type, allow_unknown, options)

    async def conversations(self) -> list[Conversation]:
        """Return the conversations of this bus's agent: with whom, unread, last message; newest first."""
        return await self._conversations().list()

    async def conversation(
        self,
        other_or_name: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[HistoryFilters],
    ) -> HistoryPage:
        """Return one page of a conversation of this bus's agent, newest first; see `history`.

        It is given by the name of the other agent, or its own, ``dm:<a>:<b>``. Raises `NotYourConversation`.
        """
        name = own_conversation(check_identity(self._sender.agent), other_or_name)
        return await self.rooms.history.page(name, filters, limit, cursor)

    async def mark_read(self, conversation_or_message_id: str) -> None:
        """Mark a conversation (``dm:<a>:<b>``), or one message by its id, as read by this bus's agent.

        A handler that begins, and a pulled message that is settled, do so by themselves. Raises
        `NotYourConversation`, or `NoSuchReceipts` for a message that it was not sent.
        """
        await self._conversations().mark_read(conversation_or_message_id)

    def _conversations(self) -> Conversations:
        broker, prefix = self.rooms.broker, self.settings.prefix
        return Conversations(
            check_identity(self._sender.agent),
            self._sender,
            self._sending(),
            ConversationStore(broker, prefix),
            ReceiptStore(broker, prefix),
        )

    def _composed(self, topic: AnyTopic, body: Any, options: Mapping[str, Any]) -> Outgoing:
        given = cast("PublishOptions", options)
        return compose(self._sender, topic, body, given, self.settings.publisher.message_bytes)

    # --- live events and bindings ---

    async def emit(self, topic: AnyTopic, body: Any, **options: Unpack[EmitOptions]) -> int:
        """Send a live event to whoever watches at this moment; it is stored nowhere, and never repeated.

        Returns how many subscriptions the server passed it to: those whose pattern matches, and some that
        only nearly match. Raises `InvalidValue` for a bad field, and `BrokerError`.
        """
        return await self.rooms.live.emit(topic, body, options)

    def watch(
        self, pattern: str, *, stored: bool = False, everything: bool = False, buffer: int = 1000
    ) -> Watch:
        """Watch live events: ``async for event in bus.watch("agent.*.status")``; see `Watch`.

        ``stored`` shows messages that inboxes and channels store as well; entering it then takes a second,
        after which every publisher knows. At most ``buffer`` events wait for a slow reader. Raises
        `InvalidTopic` for what is no pattern; one that matches everything needs ``everything``.
        """
        return self.rooms.live.watch(pattern, self.rooms.table.hold if stored else None, everything, buffer)

    async def bindings(self) -> list[Binding]:
        """Return every durable wildcard, see `Agent.bind`, with its counters."""
        return await list_bindings(self.rooms.bindings)

    async def unbind(self, agent: str, pattern: str) -> bool:
        """Remove a binding of an agent, served or not; False when there was none.

        Returns when nothing is copied for it any more, after about a second. An agent that declares it puts
        it back when it is served again.
        """
        text = parse_pattern(pattern, everything=True).text
        found = await self.rooms.bindings.unbind(check_name(agent, "agent"), text)
        if found:
            await self.rooms.table.hold()
        return found

    # --- policies ---

    async def declare(self, address: str, policy: Policy) -> None:
        """Declare the policy of an address (``agent.reviewer``) or a topic (``agent.reviewer.task``).

        That of a topic wins over that of its address. Declaring the same again is fine; another one raises
        `PolicyConflict` and changes nothing. A channel takes durability, limit (of its log), history and
        archive; what only an inbox, or only a whole address, can honour raises `InvalidValue`.
        """
        await self.rooms.policies.declare(address, policy)

    async def redeclare(self, address: str, policy: Policy, *, expected: Policy) -> None:
        """Replace the policy of an address or a topic, which is known to be ``expected`` now.

        ``Policy()`` stands for none, so that replacing by it withdraws what was declared. Raises
        `PolicyConflict`, and changes nothing, when another one is stored.
        """
        await self.rooms.policies.redeclare(address, policy, expected)

    async def policy(self, address: str) -> Policy:
        """Return what was declared for an address or a topic itself; every field None when nothing was."""
        return await self.rooms.policies.of(address)

    async def policies(self) -> dict[str, Policy]:
        """Return every declared policy by address or topic.

        Raises `InvalidValue` for one that was written by hand and is none.
        """
        return await self.rooms.policies.all()

    # --- recurring messages ---

    @property
    def schedules(self) -> Schedules:
        """Recurring messages: ``add``, ``list``, ``get``, ``pause``, ``resume``, ``cancel``."""
        broker, prefix = self.rooms.broker, self.settings.prefix

        def composed(topic: AnyTopic, body: Any, options: Mapping[str, Any]) -> Outgoing:
            # What recurs has no one cause, even when a handler adds it.
            with handling(None):
                return self._composed(topic, body, options)

        return Schedules(
            ScheduleStore(broker, prefix, self.settings.publisher.address_limit),
            Wake(broker, ticking(prefix)),
            composed,
            lambda: known_addresses(broker, prefix),
            self._sender.agent,
        )

    # --- serving ---

    async def serve(self, *agents: Agent, handle_signals: bool = True) -> None:
        """Serve agents until SIGTERM, Ctrl-C or cancellation; all three drain.

        A second signal no longer waits for running handlers.
        """
        subscribers = [self._subscriber(agent) for agent in agents]
        if not subscribers:
            raise ConfigurationError("serve() needs at least one agent")
        with _signals(subscribers) if handle_signals else contextlib.nullcontext():
            await _run_all(subscribers)

    @asynccontextmanager
    async def serving(self, *agents: Agent) -> AsyncIterator[None]:
        """Serve agents for the length of a block: inside FastAPI, notebooks and tests."""
        subscribers = [self._subscriber(agent) for agent in agents]
        running = asyncio.create_task(_run_all(subscribers), name="agentbus serving")
        await until_ready(running, subscribers)
        try:
            yield
        finally:
            for subscriber in subscribers:
                subscriber.stop()
            await running

    def _subscriber(self, agent: Agent, *, assumed: bool = False) -> Subscriber:
        rooms = self.rooms
        sender = Sender(agent.name, agent.type)
        answers = Answering(
            rooms.broker, self.settings.prefix, self.events, sender, self.settings.publisher.message_bytes
        )

        async def publish(topic: AnyTopic, body: Any, **options: Unpack[PublishOptions]) -> Stored:
            return await rooms.publisher.publish_as(sender, topic, body, options)

        async def answer(
            request: Message, content: Any, failure: Outcome | None, mark: PartMark | None = None
        ) -> None:
            if failure is ACKNOWLEDGED:
                await answers.acknowledge(request, mark)
                return
            problem = None if failure is None else {"reason": failure.reason, "detail": failure.detail}
            await answers.send(request, content, problem, mark)

        about = Description(agent.name, agent.type, agent.capabilities, assumed)
        broker, prefix = rooms.broker, self.settings.prefix
        marks = Marks(ReceiptStore(broker, prefix), ConversationStore(broker, prefix), self.events)
        registration = Registration(rooms.registry, about, agent.settings.heartbeat, self.events)
        companions = (registration, marks, self._bindings_of(agent))
        return Subscriber(agent, rooms.grounds, publish, answer, answers.send_part, companions, marks.of)

    def _bindings_of(self, agent: Agent) -> BindingCompanion:
        rooms, settings = self.rooms, agent.settings
        return BindingCompanion(
            agent.name, agent.addresses, settings.copies_to, agent.bindings, rooms.bindings, rooms.table
        )

    # --- pulling ---

    @asynccontextmanager
    async def pulling(self, name: str, *, agent: Agent | None = None) -> AsyncIterator[Puller]:
        """Pull deliveries from an inbox for the length of a block."""
        pulled = agent or Agent(name, concurrency=1)
        # A name alone says nothing of what the agent is; a serving process may have said it.
        puller = Puller(self._subscriber(pulled, assumed=agent is None), self.events)
        self._pullers.add(puller)
        try:
            await puller.open()
            yield puller
        finally:
            await puller.close()
            self._pullers.discard(puller)

    async def inbox(self, name: str) -> AsyncIterator[PulledDelivery]:
        """Iterate over an agent's inbox: ``async for delivery in bus.inbox("reviewer")``.

        Settle each with ``async with delivery:``; leaving the loop hands back what is unsettled.
        """
        async with self.pulling(name) as puller, contextlib.aclosing(puller.deliveries()) as deliveries:
            async for delivery in deliveries:
                yield delivery

    async def next(self, name: str, *, timeout: Duration | None = None) -> PulledDelivery | None:
        """Return the next delivery of an agent's inbox; None when none came within ``timeout``.

        The bus keeps serving the inbox until it is closed.
        """
        puller = self._pulls.get(name)
        if puller is None:
            pulled = Agent(check_name(name), concurrency=1)
            puller = Puller(self._subscriber(pulled, assumed=True), self.events)
            await puller.open()
            self._pulls[name] = puller
        return await puller.next(timeout)

    # --- the fleet ---

    async def agents(self, type: str | None = None, capability: str | None = None) -> list[AgentInfo]:
        """Return every known agent by name, of one type and with one capability if given.

        Known is who was served once and not forgotten since; ``online`` tells whether it is there now.
        """
        return await Directory(self.rooms.registry).agents(type, capability)

    async def agent(self, name: str) -> AgentInfo:
        """Return one agent: type, capabilities, instances; raises `NoSuchAgent` that names close ones."""
        return await Directory(self.rooms.registry).agent(name)

    # --- cancelling ---

    async def cancel(self, message_id: str, address: str | None = None) -> Cancelled:
        """Cancel a message that waits or is due: nobody gets it any more, and it ends as ``cancelled``.

        Without an address every inbox in use is searched. One that waits behind others ends when its turn
        comes; who asked with it is told at once. Raises `CancelRefused` when somebody handles it (with who),
        or when it is dead or has ended, and `NoSuchMessage`.
        """
        rooms = self.rooms
        limit = self.settings.publisher.message_bytes
        answers = Answering(rooms.broker, self.settings.prefix, self.events, self._sender, limit)

        async def tell(request: Message) -> None:
            await answers.send(request, None, {"reason": "cancelled", "detail": "the request was cancelled"})

        by = self._sender.agent or "anonymous"
        return await Cancellation(rooms.broker, self.settings.prefix, by, tell).cancel(message_id, address)

    # --- dead letters ---

    @property
    def dead_letters(self) -> DeadLetters:
        """Messages that failed for good: list, retry, edit, resolve and drop them."""
        limit = self.settings.publisher.message_bytes

        def composed(topic: str, body: Any) -> bytes:
            with handling(None):
                return compose(self._sender, topic, body, {}, limit).text

        return DeadLetters(
            self.rooms.broker,
            self.settings.prefix,
            self._sender.agent or "anonymous",
            composed,
            limit,
        )

    # --- looking ---

    @property
    def channels(self) -> Channels:
        """Who reads a channel, how far, and who has read what: ``subscribers``, ``receipts``, ``forget``."""
        return Channels(self.rooms.broker, self.settings.prefix)

    async def inspect(self, address: str) -> InboxView:
        """Return what an inbox holds: waiting, in flight, due, dead, and whether its ledger closes.

        ``address`` is ``agent.<name>`` or the bare name. Waiting messages are counted one by one. A channel
        raises `InvalidTopic`: nothing waits there.
        """
        return await inspect_inbox(self.rooms.broker, self.settings.prefix, parse_inbox(address))

    async def status(self, since: BusStatus | None = None) -> BusStatus:
        """Return how the whole bus does: every inbox and channel in numbers, the deepest first.

        Rates are those since the status given, or since the last one that a worker published. Nothing is
        walked through; thousands of addresses take some seconds, in steps that leave the server to others.
        """
        broker, prefix = self.rooms.broker, self.settings.prefix
        return await read_status(broker, prefix, since or await last_published(broker, prefix))

    async def trace(self, message_id: str, address: str | None = None) -> Trace:
        """Return every place and outcome of one message that is still known.

        Without an address every address in use is searched, which reads all they hold; conversations of
        other agents are left out, and raise `NotYourConversation` when they are asked for.
        """
        broker, prefix = self.rooms.broker, self.settings.prefix
        searched = await self._searchable(address)
        return await trace_message(broker, prefix, message_id, searched)

    async def _searchable(self, address: str | None) -> list[str]:
        """Return one address, or all; without the conversations of other agents."""
        me = self._sender.agent
        if address is not None:
            check_may_read(me, parse_address(address))
            return [parse_address(address)]
        known = await known_addresses(self.rooms.broker, self.settings.prefix)
        return [each for each in known if may_read(me, each)]

    async def trace_conversation(self, correlation_id: str, address: str | None = None) -> ConversationTrace:
        """Return every message of a conversation that is left, each after its cause, with how it ended.

        ``correlation_id`` is also the id of the message that began it. Without an address every address in
        use is searched, which reads all they hold, and the archive where there is one; ``missing``, ``more``
        and ``archive`` of the result say what is known to be missing.
        """
        broker, prefix = self.rooms.broker, self.settings.prefix
        searched = await self._searchable(address)
        return await trace_conversation(broker, prefix, correlation_id, searched, self.rooms.archive)

    async def history(
        self,
        address: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[HistoryFilters],
    ) -> HistoryPage:
        """Return one page of what became of the messages of an address, newest first.

        What has not ended comes before the newest end. ``page.next`` is the cursor of the next page of the
        same query; ``page.complete`` and ``page.gaps`` say whether anything is missing, and why. Reads Redis,
        and the archive when `BusSettings.archive` or AGENTBUS_ARCHIVE names one. See `HistoryFilters` for
        since, until, type, sender, correlation_id, grep, state, outcome and oldest_first. Raises
        `NoSuchAddress`, and `InvalidValue` for a filter, limit (1 to 10,000) or cursor.
        """
        check_may_read(self._sender.agent, parse_address(address))
        return await self.rooms.history.page(address, filters, limit, cursor)

    async def replay(
        self,
        address: str,
        *,
        to: str,
        replay_id: str | None = None,
        limit: int | None = None,
        rate: float | None = None,
        allow_unknown: bool = False,
        progress: Callable[[ReplayProgress], None] | None = None,
        **filters: Unpack[ReplayFilters],
    ) -> Replayed:
        """Hand what is in the history of an address to an agent, oldest first; see `ReplayFilters`.

        Each message arrives as it was, with `Message.replayed`. Under the same ``replay_id`` an interrupted
        replay goes on where it was, and doubles nothing within the window of idempotency keys. ``rate`` is
        messages a second; without one it waits while the inbox holds 1,000 unsettled messages. Raises
        `NoSuchAddress`, `NoSuchAgent` unless ``allow_unknown``, `NotYourConversation`, and `InvalidValue`.
        """
        rooms, prefix = self.rooms, self.settings.prefix
        check_may_read(self._sender.agent, parse_address(address))
        plan = new_plan(address, to, replay_id, limit, filters)
        window = milliseconds(self.settings.publisher.key_window, "key_window")
        carrier = Carrier(rooms.broker, prefix, window, Announcer(rooms.broker, prefix, self.events))
        most = self.settings.publisher.address_limit
        replay = Replay(rooms.broker, prefix, rooms.history, carrier, window, most)
        return await replay.run(plan, rate=rate, allow_unknown=allow_unknown, tell=progress)

    # --- projects ---

    async def delete_project(
        self, project: str, *, reason: str, dry_run: bool = False, keep_archive: bool = False
    ) -> ProjectDeleted:
        """Delete a project: its channel ``project.<id>`` and every message that belongs to it, everywhere.

        What waits or is due is cancelled first; what somebody handles is left and counted, and goes when the
        project is deleted again. An entry on ``system.audit`` says who, why and how much, before and after.
        ``dry_run`` only counts. Raises `InvalidValue`, and `ConfigurationError` where this deployment
        archives and the archive is not known here, unless ``keep_archive``.
        """
        if not reason.strip():
            raise InvalidValue("reason", "say why the project is deleted; it is kept with the audit entry")
        rooms, prefix = self.rooms, self.settings.prefix
        store = ScheduleStore(rooms.broker, prefix, self.settings.publisher.address_limit)
        by = self._sender.agent or "anonymous"
        deletion = ProjectDeletion(rooms.broker, prefix, store, project, by, dry_run=dry_run)

        async def note(body: Mapping[str, Any]) -> None:
            await self.publish(AUDIT_TOPIC, dict(body))

        async with self._rows(keep_archive) as rows:
            return await deletion.run(reason, rows, note)

    @asynccontextmanager
    async def _rows(self, keep: bool) -> AsyncIterator[RowEraser | None]:
        """Open the archive for deleting; None without one, or when it is to be kept."""
        dsn = self.settings.archive or archive_dsn()
        if keep or dsn is None:
            is_on = await self.rooms.broker.execute("HGET", archive_key(self.settings.prefix), "on") == b"1"
            if is_on and not keep:
                raise ConfigurationError(
                    "this deployment archives, and the archive would keep the messages: "
                    "set AGENTBUS_ARCHIVE, or say that it is to be kept"
                )
            yield None
            return
        from agentbus.archive.connection import Database
        from agentbus.archive.eraser import ArchiveEraser

        database = Database(dsn)
        try:
            yield ArchiveEraser(database, self.settings.prefix)
        finally:
            await database.close()

    def __repr__(self) -> str:
        return f"<Bus {'open' if self._rooms else 'closed'} as {self._sender.agent or 'anonymous'}>"


async def _resolved(url: str) -> str:
    """Return a URL that can be connected to; ``embedded://`` starts the user's embedded broker."""
    if not url.startswith("embedded:"):
        return url
    if url != EMBEDDED_URL:
        raise ConfigurationError(f"url: {url!r}: the embedded broker's URL is {EMBEDDED_URL}")
    home = embedded_home()
    settings = EmbeddedSettings(folder=Path(home) if home else None, server=embedded_server())
    return (await ensure_running(settings)).url


async def _run_all(subscribers: list[Subscriber]) -> None:
    """Run subscribers until all have ended; when one fails the others drain and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for subscriber in subscribers:
                group.create_task(subscriber.run(), name=f"agentbus agent {subscriber.agent.name}")
    except BaseExceptionGroup as failures:
        raise first_error(failures) from failures


@contextlib.contextmanager
def _signals(subscribers: list[Subscriber]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C stop the subscribers; put back what was there before."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        for subscriber in subscribers:
            subscriber.stop()
        for number in signals:
            loop.remove_signal_handler(number)

    added = []
    for number in signals:
        # Windows loops and threads other than the main one cannot; there the caller cancels.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)
            added.append(number)
    try:
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)
