"""Messages per second, from the counters of two looks."""

from __future__ import annotations

from dataclasses import replace

from agentbus.status.values import AddressStatus, BusStatus, ChannelStatus

#: An earlier status that is older than this says nothing of now.
_LONGEST_MS = 300_000


def with_rates(status: BusStatus, since: BusStatus | None) -> BusStatus:
    """Return a status with the rates since an earlier one; without one that is of use, as it is."""
    if since is None or not 0 < status.at_ms - since.at_ms <= _LONGEST_MS:
        return status
    seconds = (status.at_ms - since.at_ms) / 1000
    addresses = {each.address: each for each in since.addresses}
    channels = {each.address: each for each in since.channels}
    # A total over other inboxes than before would tell of their coming and going, not of messages.
    same = not status.problems and not since.problems
    return replace(
        status,
        addresses=tuple(_address(each, addresses.get(each.address), seconds) for each in status.addresses),
        channels=tuple(_channel(each, channels.get(each.address), seconds) for each in status.channels),
        total=replace(
            status.total,
            accepted_rate=_rate(status.total.accepted, since.total.accepted, seconds),
            processed_rate=_rate(status.total.processed, since.total.processed, seconds),
        )
        if same
        else status.total,
    )


def _address(now: AddressStatus, before: AddressStatus | None, seconds: float) -> AddressStatus:
    if before is None:
        return now
    accepted, processed = (
        _rate(now.counters.get(name, 0), before.counters.get(name, 0), seconds)
        for name in ("accepted", "processed")
    )
    return replace(now, accepted_rate=accepted, processed_rate=processed)


def _channel(now: ChannelStatus, before: ChannelStatus | None, seconds: float) -> ChannelStatus:
    return (
        now if before is None else replace(now, accepted_rate=_rate(now.accepted, before.accepted, seconds))
    )


def _rate(now: int, before: int, seconds: float) -> float | None:
    """Return messages per second; None when the counter went back: the server lost or got other data."""
    return None if now < before else round((now - before) / seconds, 2)
