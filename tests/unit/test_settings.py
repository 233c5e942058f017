"""Settings and the environment."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agentbus.errors import InvalidValue, NoBroker
from agentbus.settings import (
    BusSettings,
    PublisherSettings,
    RetentionSettings,
    broker_url,
    default_agent,
    default_settings,
    embedded_home,
    embedded_server,
)


def test_the_url_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTBUS_URL", "redis://environment")
    assert broker_url("redis://given") == "redis://given"
    assert broker_url(None) == "redis://environment"
    monkeypatch.delenv("AGENTBUS_URL")
    with pytest.raises(NoBroker, match=r"embedded://(.|\n)*AGENTBUS_URL"):
        broker_url(None)


def test_the_environment_is_read_under_the_documented_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFIX", "AGENT", "SERVER", "HOME"):
        monkeypatch.setenv(f"AGENTBUS_{name}", name.lower())
    assert default_settings().prefix == "prefix"
    assert (default_agent(), embedded_server(), embedded_home()) == ("agent", "server", "home")
    for name in ("PREFIX", "AGENT", "SERVER", "HOME"):
        monkeypatch.delenv(f"AGENTBUS_{name}")
    assert default_settings().prefix == "agentbus"
    assert (default_agent(), embedded_server(), embedded_home()) == (None, None, None)


def test_defaults_are_those_of_the_design() -> None:
    settings = PublisherSettings()
    assert (settings.deadline, settings.buffer_messages, settings.buffer_bytes) == (30.0, 10_000, 64 * 2**20)
    assert (settings.message_bytes, settings.address_limit, settings.key_window) == (
        2**20,
        1_000_000,
        86_400.0,
    )


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        BusSettings().prefix = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "field"),
    [({name: bad}, name) for name in ("buffer_messages", "buffer_bytes", "message_bytes", "address_limit",
                                      "batch_messages", "batch_bytes") for bad in (0, -1, "many", 1.5, True)]
    + [({"deadline": 0}, "deadline"), ({"deadline": "x"}, "deadline"), ({"key_window": 0}, "key_window")],
)  # fmt: skip
def test_a_limit_under_which_nothing_could_be_sent_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        PublisherSettings(**values)
    assert raised.value.field == field


@pytest.mark.parametrize(
    "values",
    [{"messages": -1}, {"bytes": 1.5}, {"dead": True}, {"channel_messages": None}, {"age": "soon"},
     {"dead_age": -1}],
)  # fmt: skip
def test_a_retention_that_cannot_work_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue) as raised:
        RetentionSettings(**values)
    assert raised.value.field == next(iter(values))
