"""R5: memory stays flat while millions of messages are settled, because history goes as fast as it comes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentbus.broker.embedded import ServerBinary
from agentbus.broker.keys import inbox_keys
from agentbus.settings import RetentionSettings
from tests.chaos.figure import Figure
from tests.chaos.stage import Stage

_NAME = "mill"
_ADDRESS = f"agent.{_NAME}"
#: Messages before the first measurement: the history is full, and every process has loaded what it needs.
_WARM_UP = 60_000
#: How far memory may be from the first measurement at the end.
_TOLERANCE = 0.05
#: What is trimmed is trimmed in whole nodes, some seconds after it has ended.
_SLACK, _SETTLED_WITHIN = 300, 30.0
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """What the server has allocated and what processes of ours have in memory, in bytes."""

    server: int
    worker: int
    agent: int


class SoakRun:
    """A publisher, an agent and a worker on one broker."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._agent = stage.start("mill_agent", name=_NAME)
        self._worker = stage.start("worker", roles=["retention"])
        #: The most the server had allocated while messages flowed, and how long that took in all.
        self.highest, self.seconds = 0, 0.0

    def grind(self, messages: int) -> Memory:
        """Send so many messages through; return the memory when all are settled and trimmed."""
        began = time.monotonic()
        publisher = self._stage.start("mill_publisher", name=_NAME, messages=messages)
        with self._stage.client() as client:

            def published() -> bool:
                self.highest = max(self.highest, _used(client))
                return publisher in self._stage.ended()

            self._stage.wait(published, 60 + messages / 2_000, "the messages to be published", every=0.25)
            self._stage.wait_drained(_ADDRESS)
            self.seconds += time.monotonic() - began
            self._stage.wait(
                lambda: _is_trimmed(client), _SETTLED_WITHIN, "the history to be trimmed", every=0.1
            )
            return Memory(_used(client), _resident(self._worker), _resident(self._agent))

    def stop(self) -> None:
        """Stop all."""
        self._stage.stop([self._agent, self._worker])


def _used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def _is_trimmed(client: Any) -> bool:
    length = client.xlen(inbox_keys("agentbus", _ADDRESS).sources[3])
    return bool(length <= RetentionSettings().messages + _SLACK)


def run_soak(messages: int, binary: ServerBinary | None = None) -> Figure:
    """Settle ``messages`` messages and compare memory before and after."""
    begun = time.monotonic()
    with Stage(binary) as stage:
        run = SoakRun(stage)
        before = run.grind(_WARM_UP)
        after = run.grind(messages - _WARM_UP)
        run.stop()
        books = stage.books(_ADDRESS)
    figure = Figure("R5", "Memory while messages are settled and their history is trimmed")
    figure.rows = {
        "messages settled": f"{books['processed']:,}, {messages / run.seconds:,.0f} per second",
        "history kept": f"{RetentionSettings().messages:,} messages",
        "server's memory, full history": _change(before.server, after.server, messages),
        "server's memory, most while they flowed": f"{run.highest / _MB:.1f} MiB",
        "worker's memory": _change(before.worker, after.worker, messages),
        "agent's memory": _change(before.agent, after.agent, messages),
        "books": str(books),
    }
    figure.require(books["processed"] == messages, f"{books['processed']:,} of {messages:,} were processed")
    for what in ("server", "worker", "agent"):
        first, last = getattr(before, what), getattr(after, what)
        figure.require(
            last <= first * (1 + _TOLERANCE), f"the {what}'s memory grew from {first:,} to {last:,} bytes"
        )
    figure.seconds = time.monotonic() - begun
    return figure


def _change(before: int, after: int, messages: int) -> str:
    share = f"{(after - before) / before:+.1%}"
    return f"{before / _MB:.1f} MiB after {_WARM_UP:,}, {after / _MB:.1f} MiB after {messages:,} ({share})"
