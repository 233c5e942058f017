"""The broker that a user's processes share, started by real processes and broken in real ways."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from agentbus.broker.embedded import (
    BrokerInUse,
    EmbeddedSettings,
    ServerBinary,
    ensure_running,
    find,
    shared,
    stop,
)
from agentbus.broker.embedded.launch import launch_keeper
from agentbus.broker.embedded.places import open_places
from agentbus.errors import BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

DEADLINE = 10.0

#: Says that it is loaded; then, for each line on its input, ensures the broker of a folder and says its pid.
STARTER = """
import asyncio, sys
from pathlib import Path
from agentbus.broker.embedded import EmbeddedSettings, ensure_running
settings = EmbeddedSettings(Path(sys.argv[1]), sys.argv[2], idle_seconds=60)
print("loaded", flush=True)
for line in sys.stdin:
    print(asyncio.run(ensure_running(settings)).pid, flush=True)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not the usual folder of a test: its name leaves no room for a socket.
    with tempfile.TemporaryDirectory(prefix="ab-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()


@pytest.fixture
async def settings(folder: Path, each_server: ServerBinary) -> AsyncIterator[EmbeddedSettings]:
    chosen = EmbeddedSettings(folder, each_server.path, idle_seconds=60.0)
    yield chosen
    await stop(chosen, force=True)


def client_of(url: str, name: str = "") -> redis.Redis:
    return redis.Redis.from_url(url, client_name=name or None, socket_timeout=5)


async def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip()[:1] not in ("", "Z")


def servers_of(folder: Path) -> list[int]:
    """The servers that run on a folder: the processes that work in its data folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder / "data"):
                found.append(int(process.name))
    return found


@contextlib.contextmanager
def starter(settings: EmbeddedSettings) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(settings.folder), str(settings.server)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "loaded\n"
            yield process
        finally:
            process.kill()


def order_start(*starters: subprocess.Popen[str]) -> set[int]:
    """Let starters ensure the broker at the same moment; return the servers they found."""
    for process in starters:
        assert process.stdin is not None
        process.stdin.write("start\n")
        process.stdin.flush()
    return {int(process.stdout.readline()) for process in starters if process.stdout is not None}


async def test_a_started_broker_tells_where_everything_is(
    settings: EmbeddedSettings, each_server: ServerBinary
) -> None:
    running = await ensure_running(settings)

    assert (running.kind, running.version) == (each_server.kind, each_server.version)
    assert running.pidfile.read_text().strip() == str(running.pid)
    assert running.data == running.folder / "data" / f"{each_server.kind}-{each_server.major}"
    assert "eady to accept connections" in running.log.read_text()
    assert await find(settings) == running
    assert await ensure_running(settings) == running


async def test_the_server_keeps_what_it_accepts_and_is_the_users_alone(settings: EmbeddedSettings) -> None:
    running = await ensure_running(settings)

    with client_of(running.url) as client:
        read = client.config_get("appendonly", "appendfsync", "save", "maxmemory-policy", "port")
    assert read == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "port": "0",
    }
    for path in (running.socket, running.data, running.folder / "keeper.lock", running.log):
        assert path.stat().st_mode & 0o077 == 0, path


async def test_without_a_broker_nothing_is_found_and_nothing_stopped(settings: EmbeddedSettings) -> None:
    assert await find(settings) is None
    assert await stop(settings) is None


async def test_processes_that_start_at_once_share_one_server_in_twenty_rounds(
    settings: EmbeddedSettings,
) -> None:
    with starter(settings) as one, starter(settings) as other:
        for _ in range(20):
            started = order_start(one, other)
            running = await find(settings)
            assert running is not None
            assert started == {running.pid}
            assert servers_of(running.folder) == [running.pid]
            await stop(settings)


async def test_a_starter_killed_at_any_moment_leaves_nothing_in_the_way(settings: EmbeddedSettings) -> None:
    for moment in (0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08):
        with starter(settings) as process:
            assert process.stdin is not None
            process.stdin.write("start\n")
            process.stdin.flush()
            # Not a wait for something: the moment of the kill is what this test varies.
            await asyncio.sleep(moment)
            process.kill()
            running = await ensure_running(settings)
            assert servers_of(running.folder) == [running.pid]
            await stop(settings)


async def test_a_keeper_that_comes_late_while_the_broker_is_ended_is_ended_too(
    settings: EmbeddedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A starter that was killed may have launched it, and it waits for the place of the one that leaves."""
    places = open_places(settings.folder)
    order, ordered = shared._order_shutdown, list[int]()

    def order_and_come_late(state: dict[str, Any]) -> bool:
        ended = order(state)
        ordered.append(state["pid"])
        if len(ordered) == 1:
            while not shared._is_free(places.keeper_lock):
                time.sleep(0.01)
            launch_keeper(settings, places, time.monotonic() + DEADLINE)
        return ended

    running = await ensure_running(settings)
    monkeypatch.setattr(shared, "_order_shutdown", order_and_come_late)
    await stop(settings)
    assert ordered[0] == running.pid and len(ordered) == 2
    assert await find(settings) is None
    assert servers_of(running.folder) == []


async def test_the_broker_outlives_ctrl_c_in_its_starters_terminal(settings: EmbeddedSettings) -> None:
    with starter(settings) as process:
        (pid,) = order_start(process)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(DEADLINE)

    running = await find(settings)
    assert running is not None
    assert running.pid == pid
    assert os.getsid(running.keeper_pid) != process.pid
    assert os.getsid(running.pid) != process.pid


async def test_data_survive_an_orderly_restart(settings: EmbeddedSettings) -> None:
    running = await ensure_running(settings)
    with client_of(running.url) as client:
        client.xadd("stream", {"message": "kept"})
    await stop(settings)
    again = await ensure_running(settings)

    assert again.pid != running.pid
    with client_of(again.url) as client:
        assert client.xlen("stream") == 1


async def test_a_killed_server_comes_back_by_itself_with_its_data(settings: EmbeddedSettings) -> None:
    running = await ensure_running(settings)
    with client_of(running.url) as client:
        for number in range(500):
            client.xadd("stream", {"message": str(number)})
    os.kill(running.pid, signal.SIGKILL)
    again = await ensure_running(settings)

    assert again.pid != running.pid
    assert again.keeper_pid == running.keeper_pid
    assert again.url == running.url
    with client_of(again.url) as client:
        assert client.xlen("stream") == 500


async def test_a_server_killed_in_the_middle_of_a_write_comes_back_without_the_step(
    settings: EmbeddedSettings,
) -> None:
    running = await ensure_running(settings)
    with client_of(running.url) as client:
        client.set("before", "kept")
        client.eval("redis.call('SET', 'half', 1) redis.call('SET', 'other half', 1)", 0)
    (file,) = (running.data / "appendonlydir").glob("*.incr.aof")
    # While an earlier sync is still running the server holds it back.
    await wait_until(lambda: b"other half" in file.read_bytes(), "the step is in the file")
    os.kill(running.keeper_pid, signal.SIGSTOP)
    os.kill(running.pid, signal.SIGKILL)
    await wait_until(lambda: not lives(running.pid), "the server is killed")
    os.truncate(file, file.read_bytes().rindex(b"other half"))
    os.kill(running.keeper_pid, signal.SIGCONT)
    again = await ensure_running(settings)

    with client_of(again.url) as client:
        assert client.mget("before", "half", "other half") == [b"kept", None, None]
    assert b"half" not in file.read_bytes()
    assert "ended in the middle of a step: cut from" in running.log.read_text()


async def test_after_keeper_and_server_were_killed_the_next_start_works_on_the_same_data(
    settings: EmbeddedSettings,
) -> None:
    running = await ensure_running(settings)
    with client_of(running.url) as client:
        client.xadd("stream", {"message": "kept"})
    os.kill(running.keeper_pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGKILL)
    assert running.socket.exists(), "a stale socket is part of this test"
    again = await ensure_running(settings)

    assert again.pid != running.pid
    assert servers_of(running.folder) == [again.pid]
    with client_of(again.url) as client:
        assert client.xlen("stream") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_a_server_whose_keeper_is_killed_ends_instead_of_becoming_an_orphan(
    settings: EmbeddedSettings,
) -> None:
    running = await ensure_running(settings)
    os.kill(running.keeper_pid, signal.SIGKILL)

    await wait_until(lambda: not servers_of(running.folder), "the server follows its keeper")


async def test_files_left_by_another_boot_are_no_obstacle(settings: EmbeddedSettings) -> None:
    assert settings.folder is not None
    places = open_places(settings.folder)
    for stale in (places.start_lock, places.keeper_lock, places.data_lock, places.pidfile):
        stale.write_text("1\n")
    (places.folder / "broker.sock").write_text("")
    places.state.write_text('{"pid": 1, "keeper_pid": 1, "socket": "/nowhere/broker.sock"')

    running = await ensure_running(settings)

    assert servers_of(running.folder) == [running.pid]


async def test_an_idle_broker_ends_by_itself_and_leaves_nothing_but_its_data(
    folder: Path, each_server: ServerBinary
) -> None:
    settings = EmbeddedSettings(folder, each_server.path, idle_seconds=0.3)
    running = await ensure_running(settings)

    await wait_until(lambda: not lives(running.keeper_pid), "the keeper ends")

    assert not lives(running.pid)
    left = {path.name for path in running.folder.iterdir()}
    assert left == {"data", "broker.log", "start.lock", "keeper.lock", "data.lock"}
    assert "nobody used the broker for 0.3 s" in running.log.read_text()


async def test_a_broker_whose_folder_is_removed_ends_even_when_it_hangs(
    folder: Path, default_server: ServerBinary
) -> None:
    settings = EmbeddedSettings(folder, default_server.path, idle_seconds=0.2)
    running = await ensure_running(settings)
    os.kill(running.pid, signal.SIGSTOP)
    shutil.rmtree(folder)

    await wait_until(lambda: not lives(running.pid), "the broker ends")


async def test_a_connected_client_keeps_the_broker_and_its_leaving_ends_it(
    folder: Path, each_server: ServerBinary
) -> None:
    settings = EmbeddedSettings(folder, each_server.path, idle_seconds=0.2)
    running = await ensure_running(settings)
    with client_of(running.url) as client:
        client.ping()
        # Says nothing for five times the idle time: being connected is what counts.
        await asyncio.sleep(1.0)
        assert client.ping()

    await wait_until(lambda: not lives(running.pid), "the broker ends without clients")


async def test_visits_between_two_looks_of_the_keeper_count_as_use(
    folder: Path, each_server: ServerBinary
) -> None:
    settings = EmbeddedSettings(folder, each_server.path, idle_seconds=0.8)
    running = await ensure_running(settings)
    began = time.monotonic()
    while time.monotonic() - began < 2.0:
        with client_of(running.url) as client:
            client.ping()
        await asyncio.sleep(0.02)

    assert lives(running.pid)
    await stop(settings, force=True)


async def test_stopping_refuses_while_clients_are_connected_and_names_them(
    settings: EmbeddedSettings,
) -> None:
    running = await ensure_running(settings)
    with client_of(running.url, "agentbus:planner:publisher") as client:
        client.ping()
        with pytest.raises(BrokerInUse, match=r"1 client is connected.*agentbus:planner:publisher") as caught:
            await stop(settings)
        assert [connected.name for connected in caught.value.clients] == ["agentbus:planner:publisher"]
        assert client.ping()

        assert await stop(settings, force=True) == running

    assert not lives(running.pid)
    assert not lives(running.keeper_pid)


async def test_a_starter_that_hangs_with_the_lock_is_named_as_the_reason(settings: EmbeddedSettings) -> None:
    assert settings.folder is not None
    places = open_places(settings.folder)
    hasty = EmbeddedSettings(settings.folder, settings.server, start_seconds=0.2)
    with places.start_lock.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BrokerUnavailable, match="Another process has been starting or stopping"):
            await ensure_running(hasty)


async def test_a_hanging_server_is_reported_and_ended_only_by_force(
    folder: Path, default_server: ServerBinary
) -> None:
    settings = EmbeddedSettings(folder, default_server.path, start_seconds=1.5)
    running = await ensure_running(settings)
    os.kill(running.pid, signal.SIGSTOP)

    assert await find(settings) is None
    with pytest.raises(BrokerUnavailable, match="does not answer"):
        await ensure_running(settings)
    with pytest.raises(BrokerUnavailable, match="only force"):
        await stop(settings)
    await stop(EmbeddedSettings(folder, default_server.path), force=True)

    assert not lives(running.pid)


async def test_a_server_that_lost_its_keeper_and_hangs_keeps_others_from_its_data_until_forced(
    folder: Path, default_server: ServerBinary
) -> None:
    settings = EmbeddedSettings(folder, default_server.path)
    running = await ensure_running(settings)
    os.kill(running.pid, signal.SIGSTOP)
    os.kill(running.keeper_pid, signal.SIGKILL)

    with pytest.raises(BrokerUnavailable, match="does not answer"):
        await ensure_running(EmbeddedSettings(folder, default_server.path, start_seconds=0.5))
    assert servers_of(running.folder) == [running.pid]
    await stop(settings, force=True)

    assert not lives(running.pid)


async def test_a_folder_with_a_long_name_works(folder: Path, each_server: ServerBinary) -> None:
    settings = EmbeddedSettings(folder / ("long name " * 12).strip(), each_server.path)
    running = await ensure_running(settings)

    assert len(os.fsencode(running.socket)) <= 100
    with client_of(running.url) as client:
        assert client.ping()
    await stop(settings, force=True)


async def test_a_server_that_does_not_start_shows_the_end_of_its_log(
    settings: EmbeddedSettings, each_server: ServerBinary
) -> None:
    running = await ensure_running(settings)
    await stop(settings)
    manifest = next(running.data.glob("appendonlydir/*.manifest"))
    manifest.write_text("this is not a manifest\n")

    with pytest.raises(BrokerUnavailable, match=r"(?s)did not start: the server ended with code 1.*manifest"):
        await ensure_running(settings)

    manifest.unlink()
