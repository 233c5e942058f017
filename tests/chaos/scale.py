"""How much of everything: from the quick look of a developer to a night."""

from __future__ import annotations

from dataclasses import dataclass

#: Messages of one mixed run; more are split into several runs, each on a broker of its own.
EPISODE = 50_000
#: Messages of one run of the fleet: of one inbox the broker keeps every record, 10,000 at most.
FLEET_EPISODE = 8_000
#: Messages of one run of channels: each of four agents handles them one after the other.
CHANNEL_EPISODE = 4_000
#: Messages of one run of named recipients: each becomes up to four.
RECIPIENTS_EPISODE = 3_000


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts of the runs."""

    messages: int = 200_000
    kills: int = 160
    ambiguous: int = 100_000
    deaths: int = 100
    times_lease: int = 100
    settlements: int = 10_000
    poison: int = 200
    healthy: int = 20_000
    #: Messages of the fleet's runs, and what is broken in them.
    fleet: int = 32_000
    fleet_faults: int = 160
    #: Messages of the runs of channels, and what is killed or frozen in them.
    channels: int = 16_000
    channel_faults: int = 160
    #: Messages of the runs of named recipients, and what is killed or frozen in them.
    recipients: int = 12_000
    recipient_faults: int = 160
    #: Messages of the soak run.
    settled: int = 10_000_000

    @classmethod
    def of(cls, messages: int | None, kills: int | None) -> Scale:
        """Return the long scale, or one in proportion to ``messages``; a million is a night's worth."""
        usual = cls()
        wanted = messages or usual.messages

        def share(count: int, least: int = 1) -> int:
            return max(least, count * wanted // usual.messages)

        return cls(
            messages=wanted,
            kills=kills or share(usual.kills),
            ambiguous=share(usual.ambiguous),
            deaths=share(usual.deaths, 8),
            # Not more with more messages: a hundred leases are what was promised.
            times_lease=min(usual.times_lease, share(usual.times_lease, 3)),
            settlements=share(usual.settlements),
            poison=share(usual.poison),
            healthy=share(usual.healthy),
            fleet=share(usual.fleet),
            fleet_faults=share(usual.fleet_faults),
            channels=share(usual.channels),
            channel_faults=share(usual.channel_faults),
            recipients=share(usual.recipients),
            recipient_faults=share(usual.recipient_faults),
            settled=min(usual.settled, share(usual.settled, 200_000)),
        )


#: A minute in all: does everything still run?
QUICK = Scale(6_000, 10, 2_000, 4, 3, 200, 2, 200, 2_000, 8, 600, 6, 600, 6, 200_000)
