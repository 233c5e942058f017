"""Findings about one channel: readable, able to take messages, not about to be full."""

from __future__ import annotations

from agentbus.broker.channel import wrong_channel_types
from agentbus.broker.connection import Broker
from agentbus.broker.inspection.counts import ChannelCounts, Unreadable, count_addresses
from agentbus.broker.keys import channel_keys
from agentbus.cli.findings import BAD, WARN, Finding
from agentbus.cli.output import age
from agentbus.settings import PublisherSettings

#: A log that holds this share of its limit is nearly full.
_NEARLY_FULL = 0.8
#: Server time ahead of which an id cannot have been made by the server itself, in ms.
_FUTURE_MS = 60_000


async def examine_channel(broker: Broker, prefix: str, address: str) -> list[Finding]:
    """Examine the log of one channel."""
    [counts] = await count_addresses(broker, prefix, [address])
    if isinstance(counts, ChannelCounts):
        return _of_log(counts)
    wrong = await wrong_channel_types(broker, channel_keys(prefix, address))
    if wrong:
        advice = "another program wrote there: RENAME the key out of the way, or use another --prefix"
        return [Finding(address, BAD, "; ".join(wrong), advice)]
    problem = counts.problem if isinstance(counts, Unreadable) else "cannot be read"
    return [Finding(address, BAD, problem, "allow this user to read its keys")]


def _of_log(counts: ChannelCounts) -> list[Finding]:
    findings = []
    address = counts.address
    if counts.bricked:
        findings.append(
            Finding(
                address, BAD,
                "its log takes no more messages: somebody added an entry with the largest possible id",
                "RENAME its log key out of the way; the next message begins a new log",
            )
        )  # fmt: skip
    elif counts.last_id[0] > counts.server_ms + _FUTURE_MS:
        ahead = age(counts.last_id[0] - counts.server_ms)
        findings.append(
            Finding(
                address, WARN, f"the last id of its log is {ahead} in the future",
                "it was added by hand, or the server's clock went back; times of its messages are wrong",
            )
        )  # fmt: skip
    limit = counts.limit or PublisherSettings().address_limit
    if counts.length >= limit * _NEARLY_FULL:
        findings.append(
            Finding(
                address, WARN, f"its log holds {counts.length:,} messages of at most {limit:,}",
                "when it is full, publishing there is refused; `agentbus workers run retention` trims it",
            )
        )  # fmt: skip
    return findings
