"""What ``agentbus channel`` does and prints."""

from __future__ import annotations

from dataclasses import asdict

from agentbus.broker.inspection.subscribers import ChannelSubscriber
from agentbus.channels import Channels
from agentbus.cli.output import Output, count, moment, new_table, plural
from agentbus.cli.session import NOT_FOUND, OK, open_broker, say, settings_with


async def show_subscribers(address: str, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show who reads a channel."""
    output = Output(as_json)
    async with open_broker(url) as broker:
        found = await Channels(broker, settings_with(prefix).prefix).subscribers(address)
    if not found:
        say(f"nobody ever subscribed to {address}")
        return NOT_FOUND
    if output.json:
        for each in found:
            output.record(asdict(each))
        return OK
    table = new_table(
        address, ["agent", ">there", ">behind", ">in work", ">read", ">failed", ">missed", "since"]
    )
    for each in found:
        table.add_row(*_row(each))
    output.table(table)
    return OK


def _row(subscriber: ChannelSubscriber) -> tuple[str, ...]:
    counts = subscriber.counts
    return (
        subscriber.agent,
        count(len(subscriber.consumers)),
        "?" if subscriber.behind is None else count(subscriber.behind),
        count(subscriber.pending),
        count(counts["processed"]),
        count(counts["moved"]),
        count(counts["missed"]),
        moment(subscriber.joined_ms),
    )


async def show_receipts(
    address: str, message: str, *, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Show who was handed and has read one message."""
    output = Output(as_json)
    async with open_broker(url) as broker:
        found = await Channels(broker, settings_with(prefix).prefix).receipts(address, message)
    if output.json:
        for receipt in found:
            output.record(asdict(receipt))
        return OK
    table = new_table(f"{message} on {address}", ["agent", "delivered", "read", "outcome"])
    for receipt in found:
        delivered, read = (
            "·" if at is None else moment(at) for at in (receipt.delivered_ms, receipt.read_ms)
        )
        table.add_row(receipt.agent, delivered, read, receipt.outcome or "·")
    output.table(table)
    return OK


async def forget_subscriber(
    address: str, agent: str, *, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Remove the cursor of an agent."""
    output = Output(as_json)
    async with open_broker(url) as broker:
        unsettled = await Channels(broker, settings_with(prefix).prefix).forget(address, agent)
    if output.json:
        output.record({"address": address, "agent": agent, "unsettled": unsettled})
    else:
        rest = f"; it had {plural(unsettled, 'message')} in work" if unsettled else ""
        output.text(f"{agent} has no cursor at {address} any more{rest}", "green")
    return OK
