"""Runs a replay for ``agentbus replay``, and shows how far it is."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

import uuid_utils

from agentbus.cli.output import Output, plural
from agentbus.cli.session import NOT_FOUND, OK, open_bus, say
from agentbus.replay import Replayed, ReplayFilters, ReplayProgress


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What the command line asked for."""

    address: str
    to: str
    id: str | None
    limit: int | None
    rate: float | None
    allow_unknown: bool
    filters: ReplayFilters


async def show_replay(asked: ReplayRequest, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Replay, with a line of progress on a terminal."""
    output, line = Output(as_json), _Line()
    replay_id = asked.id or str(uuid_utils.uuid7())
    async with open_bus(url, prefix) as bus:
        try:
            done = await bus.replay(
                asked.address, to=asked.to, replay_id=replay_id, limit=asked.limit, rate=asked.rate,
                allow_unknown=asked.allow_unknown, progress=line.show, **asked.filters,
            )  # fmt: skip
        except asyncio.CancelledError:
            line.end()
            done_so_far = plural(line.count, "message")
            say(f"stopped after {done_so_far}; go on with the same command and --id {replay_id}")
            raise
    line.end()
    _print(done, output)
    return OK if done.count else NOT_FOUND


def _print(done: Replayed, output: Output) -> None:
    if output.json:
        output.record(done.to_record())
    elif done.count:
        output.text(f"replayed {plural(done.count, 'message')} of {done.address} to {done.to}", "green")
    if not done.count:
        say(f"there is nothing to replay: nothing of {done.address} matches")
    for gap in done.gaps:
        say(f"note: not complete: {gap.reason}")
    if done.skipped:
        say(f"note: {plural(done.skipped, 'message')} could not be replayed: the content is gone")


class _Line:
    """One line that is written over on a terminal."""

    def __init__(self) -> None:
        self.count = 0
        self._shown = False

    def show(self, progress: ReplayProgress) -> None:
        """Show how far it is."""
        self.count = progress.count
        if sys.stderr.isatty():
            waits = ", waiting: the inbox is full enough" if progress.paused else ""
            sys.stderr.write(f"\r\x1b[K{progress.count:,} replayed{waits}")
            sys.stderr.flush()
            self._shown = True

    def end(self) -> None:
        """Clear it."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
