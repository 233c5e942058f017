"""Looking: at inboxes, channels, agents, messages and what became of them."""

from __future__ import annotations

from typing import Unpack

from agentbus.broker.inspection import InboxView, Trace, inspect_inbox, known_addresses, trace_message
from agentbus.channels import Channels
from agentbus.conversations.access import check_may_read, check_may_see, may_read
from agentbus.conversations.reading import OwnHistory, own_turns
from agentbus.facade.calls import Calls
from agentbus.fleet.directory import Directory
from agentbus.fleet.info import AgentInfo
from agentbus.history.conversation import ConversationTrace, trace_conversation
from agentbus.history.entry import HistoryPage
from agentbus.history.query import HistoryFilters
from agentbus.message.topics import parse_address, parse_inbox
from agentbus.recipients.receipt import Receipt
from agentbus.recipients.receipts import Receipts
from agentbus.status.reading import last_published, read_status
from agentbus.status.values import BusStatus


class LookingCalls(Calls):
    """What can be asked of the broker without changing anything."""

    async def agents(self, type: str | None = None, capability: str | None = None) -> list[AgentInfo]:
        """Return every known agent by name, of one type and with one capability if given.

        Known is who was served once and not forgotten since; ``online`` tells whether it is there now.
        """
        return await Directory(self.rooms.registry).agents(type, capability)

    async def agent(self, name: str) -> AgentInfo:
        """Return one agent: type, capabilities, instances; raises `NoSuchAgent` that names close ones."""
        return await Directory(self.rooms.registry).agent(name)

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

        Without an address every address in use is searched, which reads all they hold. Raises
        `NotYourConversation` for a conversation, or a direct message, of other agents.
        """
        broker, prefix = self.rooms.broker, self.settings.prefix
        searched = await self._searchable(address)
        trace = await trace_message(broker, prefix, message_id, searched)
        if trace.message is not None:
            check_may_see(self._sender.agent, trace.message)
        return trace

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
        use is searched, which reads all they hold, and the archive where there is one; ``missing``, ``more``,
        ``archive`` and ``private`` of the result say what is known to be missing.
        """
        broker, prefix = self.rooms.broker, self.settings.prefix
        searched = await self._searchable(address)
        trace = await trace_conversation(broker, prefix, correlation_id, searched, self.rooms.archive)
        return own_turns(self._sender.agent, trace)

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
        history = OwnHistory(self.rooms.history, self._sender.agent)
        return await history.page(address, filters, limit, cursor)

    async def receipts(self, message_id: str) -> list[Receipt]:
        """Return how it is with each recipient of a message: stored, delivered, read, processed, refused.

        Receipts are kept for seven days; raises `NoSuchReceipts` for a message that has none.
        """
        return await Receipts(self.rooms.broker, self.settings.prefix).status(message_id)
