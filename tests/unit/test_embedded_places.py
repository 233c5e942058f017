from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentbus.broker.embedded import BrokerInUse, ConnectedClient, EmbeddedSettings
from agentbus.broker.embedded.places import (
    LONGEST_SOCKET_PATH,
    open_places,
    private_folder,
    runtime_folder,
    socket_path,
)
from agentbus.errors import ConfigurationError, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for a socket, unlike the usual one of a test."""
    with tempfile.TemporaryDirectory(prefix="ab-") as folder:
        yield Path(folder)


def test_a_folder_is_made_for_the_user_alone(tmp_path: Path) -> None:
    places = open_places(tmp_path / "made")

    assert places.folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    with pytest.raises(ConfigurationError, match=r"mode 0777.*chmod 700"):
        open_places(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)

    with pytest.raises(ConfigurationError, match="belongs to user id 12345"):
        open_places(tmp_path)
    with pytest.raises(ConfigurationError, match="belongs to user id 12345"):
        private_folder(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="cannot be made"):
        open_places(tmp_path / "file" / "folder")


def test_a_link_in_place_of_the_runtime_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")

    with pytest.raises(ConfigurationError, match="not a folder"):
        private_folder(tmp_path / "link")


def test_a_runtime_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)

    with pytest.raises(ConfigurationError, match="mode 0750"):
        private_folder(tmp_path)


def test_the_systems_runtime_folder_is_used_where_it_can_be_written(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))

    assert runtime_folder() == short_folder / "agentbus"
    assert runtime_folder().stat().st_mode & 0o777 == 0o700


def test_without_a_runtime_folder_the_temporary_one_is_used(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))

    assert runtime_folder() == short_folder / f"agentbus-{os.getuid()}"


def test_two_spellings_of_a_folder_are_one_place(short_folder: Path) -> None:
    (short_folder / "real").mkdir(mode=0o700)
    (short_folder / "link").symlink_to(short_folder / "real")

    assert open_places(short_folder / "link") == open_places(short_folder / "real" / ".." / "real")


def test_the_socket_of_a_chosen_folder_lies_in_it(short_folder: Path) -> None:
    places = open_places(short_folder)

    assert socket_path(places, chosen_folder=True) == places.folder / "broker.sock"


def test_a_path_that_is_too_long_becomes_a_short_one_of_its_own(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    one, other = open_places(short_folder / ("ü" * 60)), open_places(short_folder / ("ö" * 60))

    sockets = [socket_path(places, chosen_folder=True) for places in (one, other)]

    assert sockets[0] != sockets[1]
    assert sockets[0] == socket_path(one, chosen_folder=True)
    assert all(len(os.fsencode(path)) <= LONGEST_SOCKET_PATH for path in sockets)


@pytest.mark.parametrize("field", ["idle_seconds", "start_seconds"])
def test_settings_refuse_a_time_that_is_not_positive(field: str) -> None:
    with pytest.raises(InvalidValue, match=field):
        EmbeddedSettings(**{field: 0})


def test_the_error_of_a_broker_in_use_counts_and_names_its_clients() -> None:
    planner = ConnectedClient("planner", "/x:0", 3)

    assert "1 client is connected to the broker: planner" in str(BrokerInUse((planner,)))
    assert "2 clients are" in str(BrokerInUse((planner, ConnectedClient("", "/x:0", 3))))
    assert "unnamed" in str(BrokerInUse((ConnectedClient("", "/x:0", 3),)))
