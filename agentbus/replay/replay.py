"""Replays: pages of history, oldest first, carried into an inbox, each message once for a replay.

A replay that is interrupted and goes on under its id neither loses nor doubles: where it is, is noted after
each page, and what was carried since then is known at the inbox by its origin.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from agentbus.broker.carry import Carrier, Origin
from agentbus.broker.connection import Broker
from agentbus.broker.dead_letters import server_ms
from agentbus.broker.inspection import InboxCounts, Unreadable, count_addresses, known_addresses
from agentbus.broker.keys import inbox_keys
from agentbus.broker.replays import ReplayRecords
from agentbus.errors import ArchiveUnavailable, BrokerRefused, NoSuchAddress, NoSuchAgent
from agentbus.history.entry import HistoryEntry, HistoryGap, HistoryPage
from agentbus.history.query import HistoryFilters
from agentbus.message.codec import encode
from agentbus.message.message import Message
from agentbus.message.topics import is_inbox
from agentbus.replay.pacing import MOST_UNSETTLED, Pace
from agentbus.replay.plan import Replayed, ReplayPlan, ReplayProgress, ReplayState, at, begun, resumed

#: Messages of one page; as many at most are carried again when a replay goes on.
_PAGE = 100
#: An envelope that was stored once fits; the marker must not make it too large.
_NO_LIMIT = 2**31

Tell = Callable[[ReplayProgress], None]


class Past(Protocol):
    """The history, as far as it may be replayed."""

    async def page(
        self, address: str, filters: HistoryFilters, limit: int, cursor: str | None = None
    ) -> HistoryPage:
        """Return one page. Raises `NoSuchAddress`."""


class Replay:
    """Replays the history of addresses."""

    def __init__(
        self, broker: Broker, prefix: str, history: Past, carrier: Carrier, window_ms: int, most: int
    ) -> None:
        """``window_ms``: how long what was carried is known; ``most``: what an inbox may hold."""
        self._broker = broker
        self._prefix = prefix
        self._history = history
        self._carrier = carrier
        self._records = ReplayRecords(broker, prefix, window_ms)
        self._most = most

    async def run(
        self,
        plan: ReplayPlan,
        *,
        rate: float | None = None,
        allow_unknown: bool = False,
        tell: Tell | None = None,
    ) -> Replayed:
        """Replay. Raises `NoSuchAddress`, `NoSuchAgent`, `ArchiveUnavailable`, `InvalidValue`."""
        told = _Told(plan.id, tell)
        most = MOST_UNSETTLED if rate is None else self._most
        pace = Pace(rate, most, lambda: self._unsettled(plan.to), told.paused)
        if not allow_unknown:
            await self._check_known(plan.to)
        state = await self._begin(plan)
        plan = at(plan, state)
        while not state.ended:
            page = await self._page(plan, state)
            _check_archive(plan, page)
            state = await self._replay_page(plan, state, page, pace, told)
            await self._records.save(plan.id, state.to_record())
        gaps = tuple(HistoryGap(kind, reason) for kind, reason in state.gaps.items())
        return Replayed(plan.id, plan.address, plan.to, state.count, state.skipped, gaps)

    async def _begin(self, plan: ReplayPlan) -> ReplayState:
        state = begun(plan, await server_ms(self._broker))
        record = await self._records.begin(plan.id, state.to_record())
        return state if record is None else resumed(plan, record)

    async def _page(self, plan: ReplayPlan, state: ReplayState) -> HistoryPage:
        try:
            return await self._history.page(plan.address, plan.query, self._size(plan, state), state.cursor)
        except NoSuchAddress:
            # A mistake of writing: the same id is for the one that is meant.
            await self._records.forget(plan.id)
            raise

    def _size(self, plan: ReplayPlan, state: ReplayState) -> int:
        return _PAGE if plan.limit is None else max(1, min(_PAGE, plan.limit - state.count))

    async def _replay_page(
        self, plan: ReplayPlan, state: ReplayState, page: HistoryPage, pace: Pace, told: _Told
    ) -> ReplayState:
        """Replay a page; returns how far the replay is then."""
        for entry in page.entries:
            if await self._replay_one(plan, entry, pace):
                state = replace(state, count=state.count + 1)
            elif entry.message is None:
                state = replace(state, skipped=state.skipped + 1)
            told.reached(state.count)
        full = plan.limit is not None and state.count >= plan.limit
        return replace(state.with_gaps(page.gaps), cursor=page.next, ended=full or page.next is None)

    async def _replay_one(self, plan: ReplayPlan, entry: HistoryEntry, pace: Pace) -> bool:
        message = entry.message
        if message is None or entry.outcome == "cancelled" or _is_replay_of(message, plan.address):
            return False
        await pace.ready()
        origin = Origin(plan.address, _entry_of(entry, message), f"replay:{plan.id}")
        marker = {
            "id": plan.id,
            "of": f"{plan.address}.{message.message_type}",
            "at": datetime.now(UTC).isoformat(),
        }
        envelope = {**message.envelope, "replay": marker}
        # Who asked has had an answer, or has given up.
        envelope.pop("reply_to", None)
        text = encode(envelope, _NO_LIMIT)
        await self._carrier.carry(plan.to, origin, message.message_id, text, priority=message.priority)
        return True

    # --- the inbox ---

    async def _unsettled(self, address: str) -> int:
        (counts,) = await count_addresses(self._broker, self._prefix, [address])
        if isinstance(counts, Unreadable):
            raise BrokerRefused(f"{address} cannot be counted: {counts.problem}")
        assert isinstance(counts, InboxCounts)
        return counts.waiting + counts.in_flight + counts.due

    async def _check_known(self, address: str) -> None:
        ledger = inbox_keys(self._prefix, address).ledger
        if await self._broker.execute("HGET", ledger, "served") is not None:
            return
        known = [one for one in await known_addresses(self._broker, self._prefix) if is_inbox(one)]
        close = [one for one in difflib.get_close_matches(address, known, n=3) if one != address]
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise NoSuchAgent(f"nobody has ever served {address}{hint} (allow_unknown replays all the same)")


class _Told:
    """Whoever wants to know how far a replay is."""

    def __init__(self, replay_id: str, tell: Tell | None) -> None:
        self._id = replay_id
        self._tell = tell
        self._count = 0

    def reached(self, count: int) -> None:
        """Say how many messages were replayed."""
        self._count = count
        self._say(False)

    def paused(self) -> None:
        """Say that it waits for room."""
        self._say(True)

    def _say(self, paused: bool) -> None:
        if self._tell is not None:
            self._tell(ReplayProgress(self._id, self._count, paused))


def _check_archive(plan: ReplayPlan, page: HistoryPage) -> None:
    """Stop rather than go on without what the archive has: under this id it would be missing for good."""
    for gap in page.gaps:
        if gap.kind == "archive":
            raise ArchiveUnavailable(f"{gap.reason}; replay {plan.id} goes on under its id when it is back")


def _entry_of(entry: HistoryEntry, message: Message) -> str:
    """Return what tells an entry from others of its address: the streams of an inbox share their ids."""
    return entry.entry_id if entry.state == "logged" else f"{entry.entry_id}/{message.message_id}"


def _is_replay_of(message: Message, address: str) -> bool:
    """Whether the original is in the same history, and is replayed by itself."""
    marker: Any = message.replayed or {}
    return str(marker.get("of", "")).startswith(f"{address}.")
