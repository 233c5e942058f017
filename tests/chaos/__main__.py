"""The long reliability run: ``python -m tests.chaos``, which is what ``make chaos`` does.

Prints each figure as it is ready and, when all of them ran at full scale, writes docs/reliability.md. Ends
with 1 when a promise was broken or a target missed.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from agentbus.broker.embedded import ServerBinary, find_server
from tests.chaos.ambiguous import run_ambiguous
from tests.chaos.channels import ChannelResult, channel_figure_of, run_channels
from tests.chaos.figure import Figure
from tests.chaos.fleet import run_fleet
from tests.chaos.fleet_figures import FleetResult, fleet_figures_of
from tests.chaos.mixed import MixedResult, figures_of, run_mixed
from tests.chaos.patience import run_patience
from tests.chaos.poison import run_poison
from tests.chaos.recipients import RecipientsResult, recipients_figure_of, run_recipients
from tests.chaos.recovery import run_recovery
from tests.chaos.report import PLACE, Circumstances, commit, show, write
from tests.chaos.scale import CHANNEL_EPISODE, EPISODE, FLEET_EPISODE, QUICK, RECIPIENTS_EPISODE, Scale
from tests.chaos.soak import run_soak
from tests.chaos.stage import Stage
from tests.chaos.zombies import run_zombies
from tests.postgres import NoPostgres

RUNS = (
    "mixed",
    "fleet",
    "channels",
    "recipients",
    "ambiguous",
    "recovery",
    "patience",
    "zombies",
    "poison",
    "soak",
)

Result = TypeVar("Result", MixedResult, ChannelResult, RecipientsResult)

#: One figure of each run: with all of them the page is written.
_PUBLISHED = {"F1", "Fleet", "Channels", "Recipients", "F3", "F4", "F4b", "F5", "F9", "R5"}


class Session:
    """One call of the command."""

    def __init__(self, seed: str, scale: Scale, binary: ServerBinary, until: float) -> None:
        self._seed = seed
        self._scale = scale
        self._binary = binary
        self._until = until

    def run(self, name: str) -> list[Figure]:
        """Do one of `RUNS`."""
        scale, seed, binary = self._scale, self._seed, self._binary
        match name:
            case "mixed":
                return figures_of(self._mixed())
            case "fleet":
                return fleet_figures_of(self._fleet())
            case "channels":
                return [channel_figure_of(self._channels())]
            case "recipients":
                return [recipients_figure_of(self._recipients())]
            case "ambiguous":
                return [run_ambiguous(seed, scale.ambiguous, binary=binary)]
            case "recovery":
                return [run_recovery(seed, scale.deaths, binary)]
            case "patience":
                return [run_patience(scale.times_lease, binary)]
            case "zombies":
                return [run_zombies(scale.settlements, binary)]
            case "soak":
                return [run_soak(scale.settled, binary)]
            case _:
                return [run_poison(seed, scale.poison, scale.healthy, binary)]

    def _mixed(self) -> MixedResult:
        scale = self._scale
        return self._several(MixedResult(), run_mixed, _episodes(scale.messages, scale.kills, EPISODE))

    def _channels(self) -> ChannelResult:
        scale = self._scale
        episodes = _episodes(scale.channels, scale.channel_faults, CHANNEL_EPISODE)
        return self._several(ChannelResult(), run_channels, episodes)

    def _recipients(self) -> RecipientsResult:
        scale = self._scale
        episodes = _episodes(scale.recipients, scale.recipient_faults, RECIPIENTS_EPISODE)
        return self._several(RecipientsResult(), run_recipients, episodes)

    def _several(
        self, result: Result, run: Callable[..., Result], episodes: Iterable[tuple[int, int]]
    ) -> Result:
        """Do several runs, on brokers that sync always and every second in turn."""
        for number, (messages, faults) in enumerate(episodes):
            if number and time.monotonic() > self._until:
                break
            sync = ("always", "everysec")[number % 2]
            result.add(run(f"{self._seed}.{number}", messages, faults, self._binary, sync))
        return result

    def _fleet(self) -> FleetResult:
        """Several runs of a whole fleet, on brokers that sync always."""
        result, scale = FleetResult(), self._scale
        for number, (messages, faults) in enumerate(
            _episodes(scale.fleet, scale.fleet_faults, FLEET_EPISODE)
        ):
            if number and time.monotonic() > self._until:
                break
            result.add(run_fleet(f"{self._seed}.{number}", messages, faults, self._binary))
        return result


def _episodes(messages: int, kills: int, bearable: int) -> Iterator[tuple[int, int]]:
    """Split messages and kills into runs of bearable size."""
    count = max(1, round(messages / bearable))
    for number in range(count):
        yield messages // count, kills * (number + 1) // count - kills * number // count


def main(arguments: list[str]) -> int:
    """Do what the command line says."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    Stage.keep = options.keep
    seed = options.seed or secrets.token_hex(4)
    binary = find_server(os.environ.get("AGENTBUS_TEST_SERVER") or None)
    scale = QUICK if options.quick else Scale.of(options.messages, options.kills)
    names = options.only or RUNS
    print(f"seed {seed}, {binary}")
    begun, began_at = time.monotonic(), commit()
    session = Session(seed, scale, binary, begun + 60 * options.minutes)
    figures: list[Figure] = []
    for name in names:
        if figures and time.monotonic() > begun + 60 * options.minutes:
            print(f"no time left for {name}")
            continue
        try:
            found = session.run(name)
        except (AssertionError, TimeoutError, NoPostgres) as error:
            # The figures of the other runs are worth having all the same.
            found = [Figure(name, "did not come to its end", problems=[str(error)])]
        for figure in found:
            show(figure)
        figures += found
    minutes = (time.monotonic() - begun) / 60
    complete = not options.quick and {f.name for f in figures} >= _PUBLISHED
    if complete:
        command = shlex.join(("python", "-m", "tests.chaos", *arguments))
        write(Circumstances(seed, command, binary, began_at, minutes), figures)
        print(f"\nwritten: {PLACE.name}")
    bad = [figure.name for figure in figures if figure.problems or figure.missed]
    print(f"\n{minutes:.1f} minutes, seed {seed}: {'not good: ' + ', '.join(bad) if bad else 'all good'}")
    return 1 if bad else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", help="every random choice follows from it; printed at begin and end")
    parser.add_argument(
        "--messages", type=int, help=f"{Scale().messages:,} by default; all other counts follow"
    )
    parser.add_argument(
        "--kills", type=int, help="of the mixed runs; four for every 5,000 messages by default"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing new after this")
    parser.add_argument("--only", action="append", choices=RUNS, help="one run; can be given several times")
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.gettempdir()) / "agentbus-chaos-kept", metavar="FOLDER",
        help="where a run that fails leaves the broker's files and log and all histories; %(default)s",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a minute in all; writes no report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
