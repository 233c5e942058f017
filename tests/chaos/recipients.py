"""Messages to named agents, direct ones and copies by wildcard, through kills and freezes of everybody.

The books of each inbox close at the end, and a judge compares what senders and recipients wrote down with
receipts, logs and conversations.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field

import redis

from agentbus import Bus, Policy, Receipt
from agentbus.broker import keys
from agentbus.broker.embedded import ServerBinary
from tests.chaos import books
from tests.chaos.cast import LEASE, Cast
from tests.chaos.figure import Figure, zero_of
from tests.chaos.gate import Gate
from tests.chaos.judges import Finding
from tests.chaos.mail import INBOX, Mail, Writer
from tests.chaos.mail_judge import WATCHED, judge_mail
from tests.chaos.mishaps import broken_told, causes_told
from tests.chaos.plan import RECIPIENTS, faults
from tests.chaos.readings import logged
from tests.chaos.stage import RunFailed, Stage

_PREFIX = "agentbus"
_TEAM, _NEWS = "channel.team", "channel.news"
#: What an auditor is bound to.
_BOUND = {f"{_NEWS}.task": "auditor", "agent.ada.task": "auditor"}
_WRITERS = {
    "several": Writer("several", ("ada", "ben", "cyn"), bound=_BOUND),
    "said": Writer("several", ("ada", "ben"), _TEAM, idempotent=True, bound=_BOUND),
    "hasty": Writer("several", ("ada", "cyn"), deadline=0.4, bound=_BOUND),
    "direct": Writer("direct", ("ada", "ben"), idempotent=True),
    "topics": Writer("topics", tuple(_BOUND), bound=_BOUND),
}
#: More than this does not wait for one of them: some is refused.
_SMALL_INBOX = 10
_RECEIPTS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Kind:
    """One agent."""

    instances: int = 1
    concurrency: int = 10
    fails: bool = False
    binds: tuple[str, ...] = ()
    copies_to: tuple[str, ...] | None = None


_AGENTS = {
    "ada": Kind(instances=2, copies_to=("auditor",)),
    "ben": Kind(fails=True),
    "cyn": Kind(concurrency=1),
    "auditor": Kind(binds=(f"{_NEWS}.*", "agent.ada.*")),
}


@dataclass(slots=True)
class RecipientsResult:
    """What one or several runs showed together."""

    finding: Finding = field(default_factory=Finding)
    broken: Counter[str] = field(default_factory=Counter)
    books_closed: int = 0
    seconds: float = 0.0

    def add(self, other: RecipientsResult) -> None:
        """Add another run."""
        self.finding.add(other.finding)
        self.broken += other.broken
        self.books_closed += other.books_closed
        self.seconds += other.seconds


class RecipientsRun:
    """One run; `run` does it."""

    def __init__(self, stage: Stage, seed: str, messages: int, kills: int) -> None:
        self._stage = stage
        self._seed = seed
        self._share = messages // len(_WRITERS)
        self._faults = list(faults(seed, kills, RECIPIENTS))
        self._cast = Cast(stage, self._start_agent, self._start_writer)

    def run(self) -> RecipientsResult:
        """Send, kill, freeze, replace, drain, judge."""
        begun = time.monotonic()
        stage, cast, gate = self._stage, self._cast, Gate(self._stage.folder / "gate")
        for name, kind in _AGENTS.items():
            for _ in range(kind.instances):
                cast.add_agent(name)
        stage.wait(lambda: asyncio.run(self._opening()), 30, "the agents to be there", every=0.2)
        for writer in _WRITERS:
            cast.add_writer(writer)
        cast.suffer(self._faults, gate, 0.0, 0.9)
        gate.open(1.0)
        stage.wait(cast.have_written, 90, "the senders to end", every=0.1)
        cast.thaw_all()
        self._wait_drained()
        stage.stop(cast.agents)
        return self._judge(begun)

    # --- processes ---

    def _start_agent(self, name: str) -> int:
        kind = _AGENTS[name]
        return self._stage.start(
            "subscriber", name=name, types=("task",), binds=kind.binds, copies_to=kind.copies_to,
            concurrency=kind.concurrency, fails=kind.fails, lease=LEASE, seed=self._seed,
        )  # fmt: skip

    def _start_writer(self, name: str) -> int:
        writer = _WRITERS[name]
        return self._stage.start(
            "sender", writer=name, way=writer.way, to=writer.to, channel=writer.channel,
            messages=self._share, idempotent=writer.idempotent, deadline=writer.deadline, seed=self._seed,
        )  # fmt: skip

    async def _opening(self) -> bool:
        """Whether all agents are known, and bound; makes one inbox small."""
        self._stage.ended()
        async with Bus(self._stage.broker.url) as bus:
            await bus.declare(f"{INBOX}cyn", Policy(limit=_SMALL_INBOX))
            known = {agent.name for agent in await bus.agents()}
            bound = {binding.agent for binding in await bus.bindings()}
        return known == set(_AGENTS) and bound == set(_BOUND.values())

    # --- the end ---

    def _wait_drained(self) -> None:
        try:
            self._stage.wait(self._drained, 90, "the drain", every=0.2)
        except TimeoutError as error:
            with self._stage.client() as client:
                left = {name: str(books.look(client, INBOX + name)) for name in _AGENTS}
                left["owed"] = str(_owed(client))
            raise RunFailed(f"{error}: {left}") from error

    def _drained(self) -> bool:
        self._stage.ended()
        # A broker may be on its way back.
        with contextlib.suppress(redis.RedisError), self._stage.client() as client:
            # Owed copies first: each is in an inbox before it is struck off.
            return not _owed(client) and all(
                books.look(client, INBOX + name).unsettled == 0 for name in _AGENTS
            )
        return False

    def _judge(self, begun: float) -> RecipientsResult:
        for name in _AGENTS:
            # Raises when they do not close.
            self._stage.books(INBOX + name)
        finding = judge_mail(self._mail(), _WRITERS, self._stage.records())
        if finding.problems:
            self._stage.keep_evidence("; ".join(finding.problems))
        return RecipientsResult(finding, self._cast.broken, len(_AGENTS), time.monotonic() - begun)

    def _mail(self) -> Mail:
        addresses = [_TEAM, _NEWS]
        unread: dict[tuple[str, str], int] = {}
        for name in ("ada", "ben"):
            left = asyncio.run(_unread(self._stage.broker.url, name))
            unread |= left
            addresses += [conversation for conversation, _ in left]
        with self._stage.client() as client:
            logs = {address: tuple(logged(client, address).values()) for address in addresses}
            dead = {name: frozenset(books.dead_keys(client, INBOX + name)) for name in _AGENTS}
            before, _, after = keys.receipts(_PREFIX, "*").partition("*")
            found = client.scan_iter(f"{before}*{after}", count=1_000)
            ids = [key.decode().removeprefix(before).removesuffix(after) for key in found]
        receipts = asyncio.run(_receipts(self._stage.broker.url, ids))
        return Mail(receipts, dead, logs, unread, time.time() - time.monotonic())


def _owed(client: redis.Redis) -> int:
    """Return of how many messages copies are owed."""
    places = {topic.rpartition(".")[0] for topic in _BOUND}
    return sum(int(client.zcard(keys.owed(_PREFIX, place)[0])) for place in places)


async def _unread(url: str, agent: str) -> dict[tuple[str, str], int]:
    async with Bus(url, agent=agent) as bus:
        return {(each.name, agent): each.unread for each in await bus.conversations()}


async def _receipts(url: str, ids: list[str]) -> dict[str, tuple[Receipt, ...]]:
    found: dict[str, tuple[Receipt, ...]] = {}
    async with Bus(url) as bus:
        for begin in range(0, len(ids), _RECEIPTS_AT_ONCE):
            some = ids[begin : begin + _RECEIPTS_AT_ONCE]
            rows = await asyncio.gather(*(bus.receipts(message_id) for message_id in some))
            found |= dict(zip(some, map(tuple, rows), strict=True))
    return found


def run_recipients(
    seed: str, messages: int, kills: int, binary: ServerBinary | None = None, appendfsync: str = "everysec"
) -> RecipientsResult:
    """Send ``messages`` in five ways through ``kills`` kills and freezes, on a broker of its own."""
    # As in mixed runs: what a stalled sync costs under everysec is a matter of the disk.
    with Stage(binary, appendfsync, in_memory=appendfsync == "everysec") as stage:
        return RecipientsRun(stage, seed, messages, kills).run()


def recipients_figure_of(result: RecipientsResult) -> Figure:
    """Return the figure of messages to named agents."""
    counts, broken = result.finding.counts, result.broken.total()
    figure = Figure("Recipients", "Several recipients, direct messages and copies, through kills and freezes")
    figure.problems, figure.seconds = result.finding.problems, result.seconds
    figure.rows = {
        "messages, by five writers": f"{counts['messages']:,}",
        "killed or frozen": broken_told(result.broken),
        "told stored; refused": f"{counts['promised to somebody']:,}; {counts['refused']:,}, by recipient",
        "copies due; messages in logs": f"{counts['copies due']:,}; {counts['messages in logs']:,}",
        "copies that a dead or hasty sender owed, made by others": f"{counts['made good']:,}",
        "handled; dead letters": f"{counts['handled']:,}; {counts['dead letters']:,}",
        "receipts compared": f"{counts['receipts']:,}",
        **{name: zero_of(counts[name], broken, "fault") for name in WATCHED},
        "deliveries beyond the first": causes_told(counts),
        "books of inboxes that closed": f"{result.books_closed:,}",
    }
    return figure
