"""Workers beside the shared broker: one set, started again when it dies, and never longer than the broker."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from agentbus.broker.embedded import (
    EmbeddedSettings,
    PrivateBroker,
    RunningBroker,
    ServerBinary,
    ensure_running,
    find,
    programs,
    stop,
)
from agentbus.broker.embedded.attached import AttachedWorkers, find_workers, order_workers
from agentbus.broker.embedded.places import Places
from agentbus.cli.services import service_command

DEADLINE = 20.0


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not the usual folder of a test: its name leaves no room for a socket.
    with tempfile.TemporaryDirectory(prefix="ab-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()


@pytest.fixture
async def settings(folder: Path, default_server: ServerBinary) -> AsyncIterator[EmbeddedSettings]:
    chosen = EmbeddedSettings(folder, default_server.path, idle_seconds=60.0)
    yield chosen
    await stop(chosen, force=True)


async def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        await asyncio.sleep(0.02)


def lives(pid: int | None) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def order(running: RunningBroker, *command: str) -> AttachedWorkers:
    """Order the real workers, or another command in their place."""
    real = service_command("workers", ["--url", running.url, "--until-input-ends"])
    arguments = command or real.arguments
    return await order_workers(Places(running.folder), running.keeper_pid, arguments, real.environment)


def workers_of(running: RunningBroker) -> AttachedWorkers:
    found = find_workers(Places(running.folder))
    assert found is not None
    return found


async def listed(running: RunningBroker) -> None:
    """Wait until the registry knows the workers."""
    with redis.Redis.from_url(running.url, client_name="agentbus:workers:look") as client:
        await until(lambda: client.hlen("agentbus:workers"), "the workers are in the registry")


async def test_two_orders_run_one_set_which_leaves_before_the_broker_stops(
    settings: EmbeddedSettings,
) -> None:
    running = await ensure_running(settings)
    first, second = await asyncio.gather(order(running), order(running))
    assert first.pid == second.pid == workers_of(running).pid
    await listed(running)
    assert not Places(running.folder).workers_order.exists(), "it holds an environment"

    assert await stop(settings) == running, "workers are no clients that would have to be asked"
    assert not lives(first.pid)
    assert find_workers(Places(running.folder)) is None
    again = await ensure_running(settings)
    with redis.Redis.from_url(again.url) as client:
        assert client.hlen("agentbus:workers") == 0, "they left, rather than being missed"


async def test_workers_that_die_are_started_again_and_the_reason_is_kept(settings: EmbeddedSettings) -> None:
    running = await ensure_running(settings)
    first = await order(running)
    assert first.pid is not None
    await listed(running)
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: workers_of(running).pid not in (first.pid, None), "a second set")
    assert workers_of(running).starts == 2
    assert workers_of(running).ended.startswith("were killed by signal 9: ")


async def test_workers_that_can_never_work_are_not_started_again_until_ordered_anew(
    settings: EmbeddedSettings,
) -> None:
    running = await ensure_running(settings)
    say = "import sys; sys.stderr.write('workers: archive: no such place\\n'); sys.exit(2)"
    await order(running, sys.executable, "-c", say)
    await until(lambda: workers_of(running).ended, "their end")
    found = workers_of(running)
    assert found.ended == "ended with code 2: workers: archive: no such place"
    assert (found.pid, found.again_in) == (None, None)
    assert (await order(running)).pid is not None


async def test_a_command_that_cannot_be_started_is_told(settings: EmbeddedSettings) -> None:
    running = await ensure_running(settings)
    found = await order(running, "/no/such/program")
    assert found.pid is None
    assert "cannot be started" in found.ended


async def test_no_workers_are_left_behind_by_a_keeper_that_is_killed(settings: EmbeddedSettings) -> None:
    running = await ensure_running(settings)
    workers = await order(running)
    await listed(running)
    os.kill(running.keeper_pid, signal.SIGKILL)
    await until(lambda: not lives(workers.pid), "the workers notice")


async def test_workers_go_on_when_the_server_crashes_and_comes_back(settings: EmbeddedSettings) -> None:
    running = await ensure_running(settings)
    workers = await order(running)
    await listed(running)
    os.kill(running.pid, signal.SIGKILL)
    again = await ensure_running(settings)
    with redis.Redis.from_url(again.url) as client:
        client.delete("agentbus:workers")
    await listed(again)
    assert workers_of(again).pid == workers.pid


async def test_workers_alone_do_not_keep_the_broker(folder: Path, default_server: ServerBinary) -> None:
    running = await ensure_running(EmbeddedSettings(folder, default_server.path, idle_seconds=3.0))
    workers = await order(running)
    await listed(running)
    await until(lambda: not lives(running.keeper_pid), "the broker ends with workers connected")
    assert not lives(workers.pid)
    assert not lives(running.pid)


@pytest.fixture
def use_watch(private_broker: Callable[..., PrivateBroker], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the keeper judges by whether its server is used; it has looked once."""
    server = private_broker()
    monkeypatch.syspath_prepend(Path(programs.__file__).parent)
    watch = importlib.import_module("keeper").UseWatch(str(server.socket))
    watch.idle_seconds()
    yield watch, server.url
    watch.forget()


def visit(url: str, name: str | None = None) -> None:
    with redis.Redis.from_url(url, client_name=name) as client:
        client.ping()


def test_a_visit_is_use_and_a_worker_that_connects_is_none(use_watch: Any) -> None:
    watch, url = use_watch
    time.sleep(0.5)
    with redis.Redis.from_url(url, client_name="agentbus:workers:bus") as worker:
        worker.ping()
        assert watch.idle_seconds() >= 0.5
        visit(url)
        assert watch.idle_seconds() < 0.5


def test_the_visits_of_workers_that_died_are_no_use(use_watch: Any) -> None:
    """Else a set that dies again and again would keep the broker for ever."""
    watch, url = use_watch
    time.sleep(0.5)
    visit(url, "agentbus:workers:bus")
    watch.forgive()
    assert watch.idle_seconds() >= 0.5


async def test_a_client_keeps_the_broker_with_its_workers(folder: Path, default_server: ServerBinary) -> None:
    settings = EmbeddedSettings(folder, default_server.path, idle_seconds=0.5)
    running = await ensure_running(settings)
    with redis.Redis.from_url(running.url) as client:
        client.ping()
        await order(running)
        await listed(running)
        # Says nothing for three times the idle time: being connected is what counts.
        await asyncio.sleep(1.5)
        assert await find(settings) == running
    await until(lambda: not lives(running.keeper_pid), "the broker ends without clients")
