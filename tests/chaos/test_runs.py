"""The runs at the scale of every build. ``python -m tests.chaos`` does the same for longer."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from agentbus.broker.embedded import ServerBinary
from agentbus.testing import skip_or_fail
from tests.chaos import report
from tests.chaos.ambiguous import run_ambiguous
from tests.chaos.channels import channel_figure_of, run_channels
from tests.chaos.controls import ForgetfulBus, settle_before_the_work
from tests.chaos.figure import Figure
from tests.chaos.fleet import run_fleet
from tests.chaos.fleet_figures import fleet_figures_of
from tests.chaos.mixed import figures_of, run_mixed
from tests.chaos.patience import run_patience
from tests.chaos.poison import run_poison
from tests.chaos.recipients import recipients_figure_of, run_recipients
from tests.chaos.recovery import run_recovery
from tests.chaos.soak import run_soak
from tests.chaos.zombies import run_zombies
from tests.postgres import NoPostgres, find_programs

pytestmark = pytest.mark.chaos


@pytest.fixture
def seed() -> str:
    """Another one for each run, printed, so that a failure can be repeated."""
    chosen = secrets.token_hex(4)
    print(f"seed {chosen}")
    return chosen


@pytest.fixture
def postgres_programs() -> Path:
    """The programs of a PostgreSQL that the run may kill."""
    try:
        return find_programs(os.environ)
    except NoPostgres as reason:
        skip_or_fail(reason, os.environ, "PostgreSQL")


def accept(*figures: Figure) -> None:
    """Show figures and require that no promise was broken."""
    for figure in figures:
        report.show(figure)
    assert [problem for figure in figures for problem in figure.problems] == []


@pytest.mark.timeout(300)
def test_fifty_thousand_messages_come_through_forty_kills(seed: str, default_server: ServerBinary) -> None:
    result = run_mixed(seed, 50_000, 40, default_server, "always")
    accept(*figures_of(result))
    assert result.kills.total() == 40
    assert result.verdict.attempts > 49_900


@pytest.mark.timeout(180)
def test_the_books_close_although_every_kill_tears_the_servers_file(
    seed: str, default_server: ServerBinary
) -> None:
    result = run_mixed(seed, 3_000, 10, default_server, "everysec", tears=True)
    accept(*figures_of(result))
    assert result.kills["broker"] > 0


@pytest.mark.timeout(180)
def test_a_fleet_with_schedules_dead_letters_and_an_archive_comes_through_kills_of_all_of_it(
    seed: str, default_server: ServerBinary, postgres_programs: Path
) -> None:
    result = run_fleet(seed, 3_000, 14, default_server, postgres_programs)
    accept(*fleet_figures_of(result))
    # Each judge had something to judge.
    assert result.letters.counts["handed out again"] > 20
    assert result.letters.counts["resolved"] and result.letters.counts["dropped"]
    assert result.ticks.counts["ticks"] > 30
    assert result.archive.counts["compared entry by entry"] > 1_000


@pytest.mark.timeout(120)
def test_channels_lose_nothing_and_keep_their_order_through_kills_and_freezes(
    seed: str, default_server: ServerBinary
) -> None:
    result = run_channels(seed, 600, 6, default_server, "always")
    accept(channel_figure_of(result))
    assert result.broken.total() == 6
    # Each judge had something to judge.
    counts = result.finding.counts
    assert counts["first deliveries in order"] > 800
    assert counts["retry after a failure"] > 10 and counts["missed"]


@pytest.mark.timeout(180)
def test_named_recipients_lose_nothing_and_have_true_receipts_through_kills_and_freezes(
    seed: str, default_server: ServerBinary
) -> None:
    result = run_recipients(seed, 600, 6, default_server, "always")
    accept(recipients_figure_of(result))
    assert result.broken.total() == 6
    # Each judge had something to judge.
    counts = result.finding.counts
    assert counts["receipts"] > 600 and counts["copies due"] > 300 and counts["messages in logs"] > 200
    assert counts["refused"] and counts["retry after a failure"]


@pytest.mark.timeout(120)
def test_a_thousand_publishes_without_an_answer_store_each_message_once(
    seed: str, default_server: ServerBinary
) -> None:
    accept(run_ambiguous(seed, 1_000, binary=default_server))


@pytest.mark.timeout(120)
def test_the_messages_of_dead_workers_run_again_within_five_heartbeats(
    seed: str, default_server: ServerBinary
) -> None:
    figure = run_recovery(seed, 6, default_server)
    accept(figure)
    # On a machine that is shared a target of time is shown; only the long run insists on it.
    assert len(figure.missed) < 2, figure.missed


@pytest.mark.timeout(120)
def test_handlers_of_three_leases_keep_their_messages(default_server: ServerBinary) -> None:
    accept(run_patience(3, default_server))


@pytest.mark.timeout(120)
def test_no_settlement_of_a_frozen_consumer_is_accepted(default_server: ServerBinary) -> None:
    accept(run_zombies(400, default_server))


@pytest.mark.timeout(120)
def test_killing_messages_run_three_times_at_most_and_harm_no_neighbour(
    seed: str, default_server: ServerBinary
) -> None:
    accept(run_poison(seed, 3, 300, default_server))


@pytest.mark.timeout(300)
def test_memory_is_flat_while_messages_are_settled(default_server: ServerBinary) -> None:
    accept(run_soak(1_000_000, default_server))


@pytest.mark.timeout(120)
def test_control_a_publisher_that_forgets_its_positions_is_seen_to_store_twice(
    seed: str, default_server: ServerBinary
) -> None:
    figure = run_ambiguous(seed, 500, ForgetfulBus, default_server)
    assert any("stored twice" in problem for problem in figure.problems)


@pytest.mark.timeout(120)
def test_control_agents_that_settle_before_the_work_are_seen_to_lose_messages(
    seed: str, default_server: ServerBinary
) -> None:
    verdict = settle_before_the_work(seed, 300, 3, default_server)
    assert verdict.lost
    assert not verdict.unexpected
