"""Findings about the addresses on a server: served, alive, able to take messages, accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.inbox_view import (
    InboxView,
    inspect_inbox,
    known_addresses,
    parse_beat,
    totals,
)
from agentbus.broker.inspection.look import Look, take_look
from agentbus.broker.keys import inbox_keys
from agentbus.cli.findings import BAD, OK_, WARN, Finding
from agentbus.cli.findings_channels import examine_channel
from agentbus.cli.output import age, plural
from agentbus.errors import BrokerRefused, WrongKeyType
from agentbus.message.topics import is_channel, short_address

#: Seconds between two looks at beats, of which there is one each second.
_BEATS_APART = 2.5
#: A loop that is later than this, in ms, holds up its own messages.
_LATE_LOOP_MS = 250
#: More waiting than this is not counted one by one here.
_MOST_COUNTED = 100_000
#: Server time ahead of which an id cannot have been made by the server itself, in ms.
_FUTURE_MS = 60_000


async def examine_addresses(broker: Broker, prefix: str) -> list[Finding]:
    """Examine every address in use."""
    findings: list[Finding] = []
    looks: dict[str, Look] = {}
    found = await known_addresses(broker, prefix)
    for address in found:
        if is_channel(address):
            findings += await examine_channel(broker, prefix, address)
            continue
        try:
            looks[address] = await take_look(broker, inbox_keys(prefix, address))
        except WrongKeyType as error:
            advice = "another program wrote there: RENAME the key out of the way, or use another --prefix"
            findings.append(Finding(address, BAD, str(error), advice))
        except BrokerRefused as error:
            findings.append(Finding(address, BAD, str(error), "allow this user to read its keys"))
    still = await _standing_still(broker, prefix, looks)
    for address, look in looks.items():
        findings += _of_consumers(address, look, still.get(address, []))
        findings += _of_lanes(address, look)
        findings += await _of_contents(broker, prefix, address, look)
    if not findings:
        summary = f"{plural(len(found), 'address')} in use, nothing wrong" if found else "none in use yet"
        findings.append(Finding("addresses", OK_, summary))
    return findings


async def _standing_still(broker: Broker, prefix: str, looks: Mapping[str, Look]) -> dict[str, list[str]]:
    """Return, per address, the consumers whose beat does not move."""
    served = {address: look for address, look in looks.items() if look.beats}
    if not served:
        return {}
    await asyncio.sleep(_BEATS_APART)
    still: dict[str, list[str]] = {}
    for address, look in served.items():
        try:
            later = (await take_look(broker, inbox_keys(prefix, address))).beats
        except BrokerRefused:
            continue
        still[address] = [name for name, beat in look.beats.items() if later.get(name) == beat]
    return still


def _of_consumers(address: str, look: Look, still: list[str]) -> Iterator[Finding]:
    counts = totals(address, look)
    todo = counts.waiting + counts.due
    if not look.beats and todo:
        ever = "nobody serves it now" if counts.served_since_ms is not None else "nobody has ever served it"
        yield Finding(
            address, WARN, f"{plural(todo, 'message')} waiting or due, and {ever}",
            f"start its agent, or look what is there: agentbus tail {address} --no-follow",
        )  # fmt: skip
    for name in still:
        yield Finding(
            address, WARN, f"consumer {name} stands still",
            "the others take over within a lease; if it is alive, something blocks its whole process",
        )  # fmt: skip
    for name, beat in look.beats.items():
        lag = parse_beat(beat)[1]
        if lag is None:
            yield Finding(
                address, BAD, f"the beat of {name} is unreadable: {beat!r}", "HDEL it from its alive key"
            )
        elif lag >= _LATE_LOOP_MS:
            yield Finding(
                address, WARN, f"the event loop of {name} is {lag} ms late",
                "a handler blocks it: make that a plain def, which runs in a thread, or await more often",
            )  # fmt: skip
    gone = {name for stream in look.streams for name in stream.holders} - set(look.beats)
    if gone:
        advice = "the next consumer of this inbox takes it over" + ("" if look.beats else ": start its agent")
        yield Finding(address, WARN, f"{', '.join(sorted(gone))} left with work in hand", advice)


def _of_lanes(address: str, look: Look) -> Iterator[Finding]:
    name = short_address(address)
    for stream in look.streams:
        if stream.bricked:
            yield Finding(
                address, BAD,
                f"{stream.name} takes no more messages: somebody added an entry with the largest possible id",
                f"agentbus doctor --repair {name}",
            )  # fmt: skip
        elif stream.last_id[0] > look.server_ms + _FUTURE_MS:
            ahead = age(stream.last_id[0] - look.server_ms)
            yield Finding(
                address, WARN, f"the last id of {stream.name} is {ahead} in the future",
                "it was added by hand, or the server's clock went back; ages of its messages are wrong",
            )  # fmt: skip


async def _of_contents(broker: Broker, prefix: str, address: str, look: Look) -> list[Finding]:
    findings = []
    delayed = inbox_keys(prefix, address).delayed
    if look.next_due_ms is not None and look.beats and look.next_due_ms < look.server_ms - 5_000:
        late = age(look.server_ms - look.next_due_ms)
        findings.append(Finding(address, WARN, f"a due message is {late} late", "see the logs of its agents"))
    if look.orphans:
        detail = f"{plural(look.orphans, 'delayed message')} that nothing points at any more"
        advice = f"somebody removed them from the key due: ZADD their ids back, or HDEL them from {delayed}"
        findings.append(Finding(address, WARN, detail, advice))
    if look.dead:
        name = short_address(address)
        advice = f"agentbus tail {name} --dead --no-follow"
        findings.append(Finding(address, WARN, plural(look.dead, "dead letter"), advice))
    if look.ledger.get("vanished"):
        detail = f"{plural(look.ledger['vanished'], 'message')} deleted by somebody while held or due"
        findings.append(
            Finding(address, WARN, detail, "find out who deletes entries: agentbus never does so")
        )
    if totals(address, look).waiting <= _MOST_COUNTED:
        findings += _of_ledger(await inspect_inbox(broker, prefix, address))
    return findings


def _of_ledger(view: InboxView) -> Iterator[Finding]:
    if view.ledger.closes or not view.steady:
        return
    difference = view.ledger.difference
    detail = (
        f"the ledger does not close: {plural(difference, 'message')} unaccounted for"
        if difference > 0
        else f"the ledger does not close: {-difference:,} more here than ever came in"
    )
    advice = "somebody deleted or copied keys or entries by hand, or the server lost its last writes"
    yield Finding(view.address, WARN, detail, advice)
