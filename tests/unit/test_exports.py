"""The public surface: sorted, complete, and loaded only when used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import agentbus


def test_the_public_names_are_sorted_and_each_can_be_imported() -> None:
    assert agentbus.__all__ == sorted(agentbus.__all__)
    for name in agentbus.__all__:
        assert getattr(agentbus, name) is not None


def test_every_public_name_has_a_home_and_no_home_is_private() -> None:
    assert set(agentbus._HOME_OF) == set(agentbus.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = agentbus.no_such_name


def test_importing_the_package_loads_neither_driver_nor_pydantic() -> None:
    code = "import sys, agentbus; print(sorted({'redis', 'pydantic', 'orjson'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_bus_loads_no_room_that_only_some_calls_need() -> None:
    rooms = {
        f"agentbus.{name}"
        for name in (
            "archive", "broker.embedded", "broker.inspection", "cancellation", "channels", "dead_letters",
            "declarations", "history", "projects", "receive.execution", "recipients.sending", "replay",
            "schedules", "status",
        )
    }  # fmt: skip
    unwanted = sorted(rooms | {"croniter", "psycopg", "pydantic", "rich", "typer"})
    code = f"import sys, agentbus.bus; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
