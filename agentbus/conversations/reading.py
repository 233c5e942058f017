"""What one agent may read: copies of direct messages stand in inboxes too, where the history finds them."""

from __future__ import annotations

from dataclasses import replace

from agentbus.conversations.access import may_see
from agentbus.history.conversation import ConversationTrace
from agentbus.history.entry import HistoryGap, HistoryPage
from agentbus.history.history import History
from agentbus.history.query import HistoryFilters

_PRIVATE = HistoryGap("private", "direct messages between other agents are left out")


class OwnHistory:
    """The history, without what other agents say to each other."""

    def __init__(self, history: History, agent: str | None) -> None:
        self._history = history
        self._agent = agent

    async def page(
        self, address: str, filters: HistoryFilters, limit: int, cursor: str | None = None
    ) -> HistoryPage:
        """Return one page; see `History.page`."""
        page = await self._history.page(address, filters, limit, cursor)
        seen = [each for each in page.entries if each.message is None or may_see(self._agent, each.message)]
        if len(seen) == len(page.entries):
            return page
        return replace(page, entries=tuple(seen), gaps=(*page.gaps, _PRIVATE))


def own_turns(agent: str | None, trace: ConversationTrace) -> ConversationTrace:
    """Return a traced conversation without what other agents say to each other."""
    seen = tuple(turn for turn in trace.turns if may_see(agent, turn.message))
    return trace if len(seen) == len(trace.turns) else replace(trace, turns=seen, private=True)
