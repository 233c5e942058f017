"""Inboxes as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.counts import ChannelCounts, Unreadable, count_addresses
from agentbus.broker.inspection.inbox_view import (
    AddressTotals,
    ConsumerView,
    InboxView,
    inspect_inbox,
    known_addresses,
    totals_of,
)
from agentbus.broker.inspection.look import format_id
from agentbus.cli.output import Output, age, colour_of, count, moment, new_table, plural
from agentbus.cli.policy_table import declared_at, policy_text, shown
from agentbus.cli.session import NOT_FOUND, OK, Failure, inbox_of, open_broker, say, settings_with
from agentbus.cli.watching import show
from agentbus.errors import BrokerRefused
from agentbus.message.address_policy import Policy
from agentbus.message.topics import is_channel

_WATCH_INTERVAL = 1.0
#: A loop that is later than this, in ms, is worth a colour.
_LATE_LOOP_MS = 250


async def show_one(name: str, *, watch: bool, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show one inbox, once or again and again."""
    address = inbox_of(name)
    space = settings_with(prefix).prefix
    output = Output(as_json)
    async with open_broker(url) as broker:

        async def look(_: int) -> tuple[dict[str, Any], RenderableType]:
            view = await inspect_inbox(broker, space, address)
            if not view.exists and not watch and address not in await known_addresses(broker, space):
                raise Failure(
                    f"nothing was ever sent to {address}, and nobody has served it; "
                    "`agentbus inbox` lists the addresses in use",
                    NOT_FOUND,
                )
            declared = await declared_at(broker, space, address)
            record = record_of(view) | {
                "policy": {place: shown(policy) for place, policy in declared.items()}
            }
            return record, Group(render(view), _policies(declared))

        await show(look, output, every=_WATCH_INTERVAL if watch else None)
    return OK


async def show_all(*, watch: bool, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show the totals of every address, once or again and again."""
    space = settings_with(prefix).prefix
    output = Output(as_json)
    async with open_broker(url) as broker:
        if output.json and not watch:
            inboxes, channels = await _all_totals(broker, space)
            for totals in inboxes:
                output.record(asdict(totals))
            for channel in channels:
                output.record(_channel_record(channel))
            return OK

        async def look(_: int) -> tuple[dict[str, Any], RenderableType]:
            inboxes, channels = await _all_totals(broker, space)
            record = {
                "addresses": [asdict(totals) for totals in inboxes],
                "channels": [_channel_record(channel) for channel in channels],
            }
            return record, Group(_render_totals(inboxes), *_render_channels(channels))

        await show(look, output, every=_WATCH_INTERVAL if watch else None)
    return OK


async def _all_totals(broker: Broker, prefix: str) -> tuple[list[AddressTotals], list[ChannelCounts]]:
    inboxes, channels = [], []
    for address in await known_addresses(broker, prefix):
        try:
            if is_channel(address):
                channels.append(await _channel(broker, prefix, address))
            else:
                inboxes.append(await totals_of(broker, prefix, address))
        except BrokerRefused as error:
            # One damaged address must not hide the others.
            say(f"agentbus: {address}: {error}; `agentbus doctor` tells what to do")
    return inboxes, channels


async def _channel(broker: Broker, prefix: str, address: str) -> ChannelCounts:
    [counts] = await count_addresses(broker, prefix, [address])
    if isinstance(counts, ChannelCounts):
        return counts
    raise BrokerRefused(counts.problem if isinstance(counts, Unreadable) else "is no channel")


def _channel_record(channel: ChannelCounts) -> dict[str, Any]:
    return {
        "address": channel.address, "messages": channel.length, "accepted": channel.accepted,
        "subscribers": channel.subscribers, "hand_made": channel.hand_made,
        "last_entry_id": format_id(channel.last_id),
        "last_ms": channel.last_ms,
    }  # fmt: skip


# --- one inbox ---


def record_of(view: InboxView) -> dict[str, Any]:
    """Return an inbox as JSON."""
    record = asdict(view)
    record["waiting"], record["in_flight"] = view.waiting, view.in_flight
    record["ledger"] |= {"closes": view.ledger.closes, "difference": view.ledger.difference}
    return record


def render(view: InboxView) -> RenderableType:
    """Return an inbox as tables."""
    served = (
        f"served since {moment(view.served_since_ms)}"
        if view.served_since_ms is not None
        else "nobody has ever served it"
    )
    head = Text.assemble((view.address, "bold"), "  ", (served, "dim" if view.served_since_ms else "yellow"))
    parts: list[RenderableType] = [head, _lanes(view)]
    parts.append(_consumers(view.consumers) if view.consumers else Text("no consumers\n", "yellow"))
    parts += [_later(view), _ledger(view)]
    return Group(*parts)


def _lanes(view: InboxView) -> RenderableType:
    table = new_table("", ["lane", ">waiting", ">oldest", ">in flight", ">history", ">hand-made"])
    table.title = None
    for lane in view.lanes:
        quiet = not (lane.waiting or lane.in_flight)
        table.add_row(
            Text(lane.name, "dim" if quiet else colour_of(lane.name)),
            count(lane.waiting), age(lane.oldest_ms), count(lane.in_flight), count(lane.ended),
            count(lane.hand_made),
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "all", count(view.waiting), "", count(view.in_flight), count(sum(lane.ended for lane in view.lanes)),
        count(view.ledger.hand_made), style="bold",
    )  # fmt: skip
    return table


def _consumers(consumers: Any) -> RenderableType:
    table = new_table("", ["consumer", ">in flight", ">held for", ">beat", ">loop lag", "phase"])
    table.title = None
    for consumer in consumers:
        table.add_row(
            consumer.name, count(consumer.in_flight), age(consumer.longest_held_ms),
            "" if consumer.beat is None else f"#{consumer.beat}", _lag(consumer), _phase(consumer),
        )  # fmt: skip
    return table


def _lag(consumer: ConsumerView) -> Text:
    lag = consumer.loop_lag_ms
    if lag is None:
        return Text("")
    return Text(f"{lag} ms", "yellow" if lag >= _LATE_LOOP_MS else "")


def _phase(consumer: ConsumerView) -> Text:
    if consumer.phase == "gone":
        return Text("gone; what it holds is taken over by the next look of another consumer", "yellow")
    return Text(consumer.phase, "green" if consumer.phase == "serving" else "yellow")


def _policies(declared: Mapping[str, Policy]) -> RenderableType:
    lines = [f"policy  {place}: {policy_text(policy)}" for place, policy in declared.items()]
    return Text("\n".join(lines), "dim")


def _later(view: InboxView) -> RenderableType:
    text = Text(f"due   {view.due:,}")
    if view.next_due_in_ms is not None:
        late = view.next_due_in_ms < 0
        text.append(
            f", the next {age(-view.next_due_in_ms)} late"
            if late
            else f", the next in {age(view.next_due_in_ms)}",
            "yellow" if view.next_due_in_ms < -1000 else "dim",
        )
    text.append("\ndead  ")
    text.append(f"{view.dead:,}", "red" if view.dead else "")
    if view.dead:
        text.append(f"  (agentbus tail {view.address.partition('.')[2]} --dead --no-follow)", "dim")
    return text


def _ledger(view: InboxView) -> RenderableType:
    ledger = view.ledger
    text = Text("\nledger  ", "bold")
    text.append(f"{ledger.accepted:,} accepted", "default")
    if ledger.hand_made:
        text.append(f" + {ledger.hand_made:,} hand-made", "default")
    here = {"dead": ledger.dead, "due": ledger.due, "in flight": ledger.in_flight, "waiting": ledger.waiting}
    counted = {**ledger.ended, "vanished": ledger.vanished, **here}
    text.append(" = " + (" + ".join(f"{n:,} {name}" for name, n in counted.items() if n) or "0"), "default")
    text.append("  ")
    if ledger.closes:
        text.append("closes", "green")
    elif ledger.difference > 0:
        text.append(f"does not close: {plural(ledger.difference, 'message')} unaccounted for", "red")
    else:
        text.append(f"does not close: {-ledger.difference:,} more here than ever came in", "red")
    if not view.steady:
        text.append(" (messages moved during the count)", "dim")
    moves = ", ".join(f"{n:,} {name}" for name, n in ledger.moves.items() if n)
    if moves:
        text.append(f"\nmoves   {moves}", "dim")
    return text


# --- all addresses ---


def _render_channels(channels: list[ChannelCounts]) -> list[RenderableType]:
    if not channels:
        return []
    table = new_table("channels", ["address", ">in its log", ">subscribers", ">accepted", "last message"])
    for channel in channels:
        last = "" if channel.last_ms is None else moment(channel.last_ms)
        table.add_row(
            channel.address, count(channel.length), count(channel.subscribers), count(channel.accepted), last
        )
    return [table]


def _render_totals(found: list[AddressTotals]) -> RenderableType:
    if not found:
        return Text("no address is in use yet; send something: agentbus pub agent.reviewer.task '{}'")
    table = new_table(
        "", ["address", ">waiting", ">in flight", ">due", ">dead", ">consumers", ">processed", ">accepted"]
    )
    table.title = None
    for totals in found:
        unserved = not totals.consumers and (totals.waiting or totals.due)
        table.add_row(
            totals.address, count(totals.waiting), count(totals.in_flight), count(totals.due),
            Text(count(totals.dead), "red" if totals.dead else ""),
            Text("nobody" if unserved else count(totals.consumers), "yellow" if unserved else ""),
            count(totals.processed), count(totals.accepted),
        )  # fmt: skip
    return table
