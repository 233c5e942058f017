"""The status of the bus as values, rates, and what people see."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agentbus.cli.status_table import render
from agentbus.errors import InvalidValue
from agentbus.status.rates import with_rates
from agentbus.status.reading import sum_up
from agentbus.status.values import AddressStatus, BusStatus, ChannelStatus, ServerStatus, Totals
from workers.status import grid_after

BUSY = AddressStatus(
    "agent.busy", consumers=2, waiting=40, in_flight=8, due=0, dead=0, oldest_ms=1_500,
    depths={"normal": 40}, counters={"accepted": 100, "processed": 52},
)  # fmt: skip
LONELY = AddressStatus(
    "agent.lonely", consumers=0, waiting=7, in_flight=0, due=3, dead=2, oldest_ms=700_000,
    depths={"critical": None, "normal": 6}, estimated=True, counters={"accepted": 12},
)  # fmt: skip


def status_of(at_ms: int, *inboxes: AddressStatus, channels: tuple[ChannelStatus, ...] = ()) -> BusStatus:
    return BusStatus(
        at_ms=at_ms, addresses=inboxes, rest=Totals(), total=sum_up(inboxes), channels=channels,
        channel_count=len(channels), workers=3, server=ServerStatus("Valkey", "9.1.2", 5_000_000, 0, 12),
    )  # fmt: skip


def shown(status: BusStatus) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system="standard")
    console.print(render(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_is_published_can_be_read_again() -> None:
    status = replace(
        status_of(1_763_680_000_123, BUSY, LONELY, channels=(ChannelStatus("system.bus", 4, "5-0", 9, 0.5),)),
        problems={"agent.typed": "is a string"},
    )
    record = json.loads(json.dumps(status.to_record()))
    assert record["at"] == "2025-11-20T23:06:40.123+00:00"
    assert BusStatus.from_record(record) == status


def test_a_status_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    record = status_of(5, BUSY).to_record() | {"weather": "fine"}
    record["total"]["moon"] = 1
    assert BusStatus.from_record(record) == status_of(5, BUSY)


@pytest.mark.parametrize("record", [None, 5, "x", [], {}, {"at_ms": 5}, {"addresses": 1}])
def test_what_is_no_status_is_refused(record: object) -> None:
    with pytest.raises(InvalidValue, match="is not the status of a bus"):
        BusStatus.from_record(record)


def test_rates_are_messages_per_second_between_two_looks() -> None:
    before = status_of(10_000, BUSY, channels=(ChannelStatus("system.bus", 4, "5-0", 9),))
    later = replace(BUSY, counters={"accepted": 160, "processed": 152})
    now = with_rates(
        status_of(20_000, later, LONELY, channels=(ChannelStatus("system.bus", 4, "5-0", 19),)), before
    )
    assert (now.addresses[0].accepted_rate, now.addresses[0].processed_rate) == (6.0, 10.0)
    assert now.addresses[1].accepted_rate is None
    assert now.channels[0].accepted_rate == 1.0
    assert (now.total.accepted_rate, now.total.processed_rate) == (7.2, 10.0)


def test_a_counter_that_went_back_and_a_look_of_long_ago_give_no_rate() -> None:
    emptied = replace(BUSY, counters={})
    assert with_rates(status_of(2_000, emptied), status_of(1_000, BUSY)).addresses[0].accepted_rate is None
    for before in (status_of(2_000, BUSY), status_of(3_000, BUSY), None):
        assert with_rates(status_of(2_000, BUSY), before) == status_of(2_000, BUSY)
    old = status_of(1, BUSY)
    assert with_rates(status_of(600_000, BUSY), old).total.accepted_rate is None


def test_the_table_shows_what_needs_somebody() -> None:
    text = shown(status_of(1_763_680_000_123, BUSY, LONELY))
    busy, lonely = (next(line for line in text.splitlines() if name in line) for name in ("busy", "lonely"))
    assert "nobody" in lonely and "nobody" not in busy
    # Yellow: nobody serves it. Red: dead letters, and what has waited for ten minutes.
    assert re.search(r"\x1b\[33m *nobody", lonely)
    assert lonely.count("\x1b[31m") == 2
    assert "\x1b[3" not in busy
    assert "~7" in lonely and "? critical, 6 normal" in text and "40 normal" not in text
    assert "Valkey 9.1.2, 5.0 MB, 12 clients" in text and "3 workers" in text


def test_columns_that_would_be_empty_are_left_out() -> None:
    assert "in/s" not in shown(status_of(5, BUSY))
    assert "in/s" in shown(with_rates(status_of(2_000, BUSY), status_of(1_000, BUSY)))


def test_an_empty_bus_says_how_to_begin() -> None:
    assert "agentbus pub" in shown(status_of(5))


@given(st.integers(0, 2**48), st.integers(1, 3_600_000))
def test_the_next_tick_is_on_the_grid_and_within_one_interval(server_ms: int, interval_ms: int) -> None:
    found = grid_after(server_ms, interval_ms)
    assert found % interval_ms == 0
    assert server_ms < found <= server_ms + interval_ms


@pytest.mark.parametrize("width", [50, 60, 80])
def test_a_narrow_terminal_shows_names_and_the_dead(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    inbox = replace(LONELY, address="agent.a-name-longer-than-a-column", accepted_rate=0.02)
    status = status_of(5, inbox)
    status = replace(status, total=replace(status.total, accepted_rate=0.02))
    console.print(render(status, width))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    (row,) = [line for line in lines if "nobody" in line]
    # name, consumers, waiting, oldest (two words), held, due, dead
    assert row.split()[0].startswith("a-name") and row.split()[7] == "2"
    assert ("<0.1" in row) == (width >= 80)
