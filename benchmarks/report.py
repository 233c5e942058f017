"""The report: tables in Markdown, the goals first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import chart, machine
from .catalogue import AGENTBUS, CATALOGUE, RAW_HOPS, RAW_LATENCY
from .fan_out_sizes import LARGEST, SUBSCRIBER_PROCESSES, SUBSCRIBERS, TO_LARGEST
from .protocol import BODY_BYTES, PUBLISHERS
from .results import (
    AT_ONCE,
    BOTH_IN,
    BOTH_OUT,
    CONSUME,
    LATENCY,
    ONE_TRIP,
    PUBLISH,
    SEND_TO_MANY,
    fan_out,
)
from .tuning import AT_ONCE as REQUESTS_AT_ONCE
from .tuning import RECIPIENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .goals import Goal
    from .results import Results
    from .runner import Plan

NOTHING = "—"
TEMPLATE = Path(__file__).with_name("report_template.md")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: bool = True) -> str:
    """A Markdown table; with `right`, all columns but the first are numbers."""
    rule = ["---", *(("---:" if right else "---") for _ in head[1:])]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rate(results: Results, name: str, measure: str) -> str:
    spread = results.spread(name, measure)
    if spread is None:
        return NOTHING
    return f"{spread.median:,.0f} ({spread.low:,.0f} to {spread.high:,.0f})"


def _times(results: Results, name: str, measure: str) -> str:
    """How many times as fast agentbus is as this one."""
    if name == AGENTBUS:
        return ""
    ratio = results.ratio((AGENTBUS, measure), (name, measure))
    return _short(ratio.median) if ratio else NOTHING


def _short(ratio: float) -> str:
    return f"{ratio:.2g}x" if ratio < 10 else f"{ratio:.0f}x"


def _rates(results: Results, plan: Plan, measures: tuple[str, str], heads: tuple[str, str]) -> str:
    rows = []
    for name in plan.candidates:
        if not any(results.spread(name, measure) for measure in measures):
            if name in results.failures:
                rows.append([CATALOGUE[name].title, "left out", "", "left out", ""])
            continue
        cells = [
            cell
            for measure in measures
            for cell in (_rate(results, name, measure), _times(results, name, measure))
        ]
        rows.append([CATALOGUE[name].title, *cells])
    head = ["messages per second", heads[0], "agentbus is", heads[1], "agentbus is"]
    return _table(head, rows)


def _latencies(results: Results, plan: Plan) -> str:
    rows = []
    for name in plan.candidates:
        middle, late = results.latency_quantile(name, 0.5), results.latency_quantile(name, 0.99)
        if middle is None or late is None:
            continue
        ratio = results.ratio((name, LATENCY), (RAW_LATENCY, LATENCY))
        over = f"{ratio.median:.2f}x" if ratio and name != RAW_LATENCY else ""
        rows.append([CATALOGUE[name].title, f"{middle * 1000:.3f}", f"{late * 1000:.3f}", over])
    return _table(["milliseconds, publish to handler", "median", "p99", "over raw"], rows)


def _fan_out(results: Results, plan: Plan) -> str:
    """Deliveries a second by number of subscribers, and how agentbus stands to each."""
    rows = []
    for name in plan.candidates:
        measures = [fan_out(size) for size in SUBSCRIBERS]
        if any(results.spread(name, measure) for measure in measures):
            cells = []
            for measure in measures:
                spread, times = results.spread(name, measure), _times(results, name, measure)
                cells.append(
                    f"{spread.median:,.0f}" + (f" ({times})" if times else "") if spread else NOTHING
                )
            rows.append([CATALOGUE[name].title, *cells])
    return _table(["deliveries per second to", *(f"{size:,}" for size in SUBSCRIBERS)], rows)


def _idle(results: Results) -> str:
    found = results.idle
    if found is None:
        return "What subscribers cost that hear nothing was not measured."
    return (
        f"{found.subscribers:,} subscribed agents that hear nothing cost their processes "
        f"{found.processes:.0%} of a core together and the server {found.server:.0%}."
    )


def _round_trips(results: Results, plan: Plan) -> str:
    rows = []
    for name in plan.candidates:
        trip, rate = results.spread(name, ONE_TRIP), results.spread(name, AT_ONCE)
        if trip and rate:
            ratio = results.ratio((name, ONE_TRIP), (RAW_HOPS, ONE_TRIP))
            over = _short(ratio.median) if ratio and name != RAW_HOPS else ""
            times = _times(results, name, AT_ONCE)
            rows.append(
                [CATALOGUE[name].title, f"{trip.median * 1000:.3f}", over, f"{rate.median:,.0f}", times]
            )
    head = [
        "",
        "one at a time, median ms",
        "over raw",
        f"{REQUESTS_AT_ONCE} at once, per second",
        "agentbus is",
    ]
    return _table(head, rows)


def _to_many(results: Results, plan: Plan) -> str:
    rows = []
    for name in plan.candidates:
        spread = results.spread(name, SEND_TO_MANY)
        if spread:
            ratio = results.ratio((name, SEND_TO_MANY), (AGENTBUS, SEND_TO_MANY))
            ours = _short(ratio.median) if ratio and name != AGENTBUS else ""
            rows.append([CATALOGUE[name].title, f"{spread.median * 1000:.2f}", ours])
    return _table([f"one message to {RECIPIENTS} recipients", "median ms", "of agentbus's time"], rows)


def goals_table(goals: list[Goal]) -> str:
    """Goal, what was measured, met or missed."""
    rows = [[goal.text, goal.goal, goal.first_step, goal.measured, goal.met] for goal in goals]
    return _table(["", "goal", "first step", "measured", ""], rows, right=False)


def _backlog(results: Results) -> str:
    found = results.backlog
    if found is None:
        return "Not measured" + (
            f": {results.failures['backlog']}." if "backlog" in results.failures else "."
        )
    rows = [
        ["memory of a raw entry with the same body", f"{found.raw_bytes:.0f} bytes"],
        [
            f"memory of a raw entry with as much text ({found.stored_text_bytes} bytes)",
            f"{found.raw_envelope_bytes:.0f} bytes",
        ],
        ["memory of a waiting message", f"{found.own_bytes:.0f} bytes"],
        *(
            [f"{name}: time taken, over an empty inbox", f"{times:.2f}x"]
            for name, times in found.slowdown.items()
        ),
    ]
    return _table([f"{found.messages:,} waiting messages in one inbox", ""], rows)


def _crowd(results: Results) -> str:
    found = results.crowd
    if found is None:
        return "Not measured" + (f": {results.failures['crowd']}." if "crowd" in results.failures else ".")
    return (
        f"{found.agents:,} agents in {found.processes} processes sent {found.messages:,} messages to one "
        f"another, each agent one at a time: {found.messages / found.seconds:,.0f} a second from the first "
        f"publish to the last handler. Unhandled: {found.unhandled}. The slowest sender needed "
        f"{found.slowest_sender:.2f} times the median agent's time; when sending ended, the unluckiest "
        f"receiver had handled {found.fewest_share:.2f} times the median share of its messages. From publish "
        f"to handler: median {found.latency_median * 1000:.0f} ms, p99 {found.latency_p99 * 1000:.0f} ms, "
        f"longest {found.latency_worst * 1000:.0f} ms (the machine is saturated on purpose)."
    )


def _revival(results: Results) -> str:
    found = results.revival
    if found is None:
        return "Not measured" + (
            f": {results.failures['revival']}." if "revival" in results.failures else "."
        )
    return (
        f"{found.letters:,} dead letters of one inbox were retried at {found.retry_rate:,.0f} a second while "
        f"fresh messages came to the same inbox; one process published, one handled both. Fresh messages "
        f"handled: {found.fresh_before:,.0f} a second before, {found.fresh_beside:,.0f} meanwhile. "
        f"The ledger {'closes' if found.closes else 'does not close'}."
    )


def _missing(results: Results) -> str:
    lines = [
        f"- **{CATALOGUE[name].title}: left out.** {reason}"
        for name, reason in results.failures.items()
        if name in CATALOGUE
    ]
    return "\n".join(lines) + "\n\n" if lines else ""


def _setups(plan: Plan) -> str:
    return "\n".join(f"- **{CATALOGUE[name].title}.** {CATALOGUE[name].setup}" for name in plan.candidates)


def _facts(root: Path, command: str, results: Results) -> str:
    facts = {**results.machine, "commit": machine.commit(root), "command": f"`{command}`"}
    facts["length of the run"] = f"{results.seconds / 60:.1f} minutes"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(results.versions.items()))
    return _table(
        ["", ""], [*([name, value] for name, value in facts.items()), ["versions", versions]], False
    )


def write(path: Path, root: Path, command: str, plan: Plan, results: Results, goals: list[Goal]) -> None:
    """Write the report to `path` and the chart beside it."""
    picture = path.with_suffix(".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(chart.draw(results, plan.candidates))
    path.write_text(
        TEMPLATE.read_text().format(
            picture=picture.name,
            goals=goals_table(goals),
            one_sided=_rates(results, plan, (PUBLISH, CONSUME), ("publish", "consume")),
            both=_rates(results, plan, (BOTH_OUT, BOTH_IN), ("out", "in")),
            latency=_latencies(results, plan),
            backlog=_backlog(results),
            crowd=_crowd(results),
            revival=_revival(results),
            fan_out=_fan_out(results, plan),
            idle=_idle(results),
            round_trips=_round_trips(results, plan),
            to_many=_to_many(results, plan),
            subscriber_processes=SUBSCRIBER_PROCESSES,
            largest=f"{LARGEST:,}",
            to_largest=TO_LARGEST,
            missing=_missing(results),
            setups=_setups(plan),
            facts=_facts(root, command, results),
            rounds=plan.rounds,
            publishers=PUBLISHERS,
            body=BODY_BYTES,
        )
    )


def summary(results: Results, goals: list[Goal]) -> str:
    """The goals in plain columns, for the terminal."""
    width = max(len(goal.text) for goal in goals)
    lines = [f"{goal.text:{width}}  {goal.goal:12}  {goal.met:14}  {goal.measured}" for goal in goals]
    return "\n".join([*lines, f"{results.seconds / 60:.1f} minutes"])
