"""The goals, and whether this run met them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .catalogue import (
    AGENTBUS,
    AGENTBUS_MANY,
    FASTSTREAM,
    JETSTREAM,
    RAW_CONSUME,
    RAW_HOPS,
    RAW_LATENCY,
    RAW_PUBLISH,
)
from .fan_out_sizes import LARGEST, TO_LARGEST
from .results import CONSUME, LATENCY, ONE_TRIP, PUBLISH, fan_out

if TYPE_CHECKING:
    from .results import Key, Results


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table."""

    text: str
    goal: str
    first_step: str
    """What has to hold at the least, where that differs from the goal."""
    measured: str
    met: str


def _verdict(value: float | None, goal: float, first_step: float | None, most: bool) -> str:
    if value is None:
        return "not measured"

    def reaches(limit: float) -> bool:
        return value <= limit if most else value >= limit

    if reaches(goal):
        return "met"
    if first_step is not None and reaches(first_step):
        return "first step met"
    return "missed"


def _ratio_goal(
    results: Results,
    text: str,
    pair: tuple[Key, Key],
    goal: float,
    step: float | None = None,
    most: bool = False,
) -> Goal:
    spread = results.ratio(*pair)
    sign = "≤" if most else "≥"
    return Goal(
        text=text,
        goal=f"{sign} {goal:g}x",
        first_step=f"{sign} {step:g}x" if step is not None else "",
        measured=f"{spread.median:.2f}x ({spread.low:.2f} to {spread.high:.2f})" if spread else "—",
        met=_verdict(spread.median if spread else None, goal, step, most),
    )


def _backlog_goals(results: Results) -> list[Goal]:
    found = results.backlog
    memory = found.memory_ratio if found else None
    slowest = max(found.slowdown.items(), key=lambda item: item[1]) if found and found.slowdown else None
    count = f"{found.messages:,}" if found else "1,000,000"
    return [
        Goal(
            f"memory of {count} waiting messages, over raw entries with the same body",
            "≤ 1.3x",
            "",
            f"{memory:.2f}x ({found.envelope_ratio:.2f}x raw entries with as much text)"
            if found and memory
            else "—",
            _verdict(memory, 1.3, None, most=True),
        ),
        Goal(
            f"what {count} waiting messages slow down most",
            "≤ 1.2x",
            "",
            f"{slowest[1]:.2f}x ({slowest[0]})" if slowest else "—",
            _verdict(slowest[1] if slowest else None, 1.2, None, most=True),
        ),
    ]


def _crowd_goal(results: Results) -> Goal:
    found = results.crowd
    text = f"{found.agents:,} agents in {found.processes} processes, all sending" if found else "1,000 agents"
    if not found:
        return Goal(text, "none starved", "", "—", "not measured")
    measured = (
        f"{found.unhandled} unhandled; slowest sender {found.slowest_sender:.2f}x, unluckiest receiver "
        f"{found.fewest_share:.2f}x the median agent"
    )
    return Goal(text, "none starved", "", measured, "missed" if found.starved else "met")


def _revival_goal(results: Results) -> Goal:
    found = results.revival
    count = f"{found.letters:,}" if found else "100,000"
    text = f"fresh messages beside {count} dead letters that are retried, over without"
    if not found:
        return Goal(text, "≤ 1.2x", "", "—", "not measured")
    met = _verdict(found.slowdown, 1.2, None, most=True) if found.closes else "missed"
    ledger = "" if found.closes else "; the ledger does not close"
    measured = f"{found.slowdown:.2f}x, {found.fresh_beside:,.0f}/s beside {found.retry_rate:,.0f}/s{ledger}"
    return Goal(text, "≤ 1.2x", "", measured, met)


def _largest_goal(results: Results) -> Goal:
    """Everybody has everything: the slowest round counts."""
    rates = results.values.get((AGENTBUS, fan_out(LARGEST)), {}).values()
    slowest = LARGEST * TO_LARGEST / min(rates) if rates else None
    return Goal(
        f"{LARGEST:,} subscribers x {TO_LARGEST} messages on one channel: everybody has everything",
        "≤ 10 s",
        "",
        f"{slowest:.1f} s" if slowest else "—",
        _verdict(slowest, 10, None, most=True),
    )


def _many_goals(results: Results) -> list[Goal]:
    """Channels with many subscribers, requests with answers."""
    measure = fan_out(100)
    ours, trips = (AGENTBUS, measure), ((AGENTBUS, ONE_TRIP), (RAW_HOPS, ONE_TRIP))
    return [
        _ratio_goal(results, "fan-out to 100 subscribers, over FastStream", (ours, (FASTSTREAM, measure)), 3),
        _ratio_goal(results, "fan-out to 100 subscribers, over JetStream", (ours, (JETSTREAM, measure)), 1),
        _largest_goal(results),
        _ratio_goal(results, "request and reply, median, over two raw hops", trips, 2.5, most=True),
    ]


def judge(results: Results) -> list[Goal]:
    """All goals, in the order of the design."""
    out, into = (AGENTBUS, PUBLISH), (AGENTBUS, CONSUME)
    ratios = [
        ("publish, over FastStream", (out, (FASTSTREAM, PUBLISH)), 8, 6),
        ("publish, over JetStream", (out, (JETSTREAM, PUBLISH)), 3, 2.5),
        ("consume, over FastStream", (into, (FASTSTREAM, CONSUME)), 20, 15),
        ("consume, over JetStream", (into, (JETSTREAM, CONSUME)), 4, 2.5),
        ("publish_many, over the raw ceiling", ((AGENTBUS_MANY, PUBLISH), (RAW_PUBLISH, PUBLISH)), 0.6, None),
        ("consume, over the raw ceiling", (into, (RAW_CONSUME, CONSUME)), 0.5, None),
    ]
    latency = ((AGENTBUS, LATENCY), (RAW_LATENCY, LATENCY))
    return [
        *(_ratio_goal(results, text, pair, goal, step) for text, pair, goal, step in ratios),
        _ratio_goal(results, "idle latency, over raw", latency, 1.5, 2, most=True),
        *_many_goals(results),
        *_backlog_goals(results),
        _crowd_goal(results),
        _revival_goal(results),
    ]
