"""Brings the embedded broker and its workers up, watches them, and takes them down."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal

from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.embedded import BrokerInUse, ConnectedClient, RunningBroker, ensure_running, find, stop
from agentbus.broker.embedded.attached import AttachedWorkers, find_workers
from agentbus.broker.embedded.places import Places
from agentbus.cli.beside import start_workers, tell_changes, workers_record, workers_text
from agentbus.cli.output import Output
from agentbus.cli.session import FAILURE, OK, embedded_settings, say
from agentbus.errors import BrokerError

#: The name of the watcher's own connection, which does not count as somebody else's.
_WATCHER = "agentbus:up"
_LOOK_INTERVAL = 1.0
#: Seconds in which the server notices that our connection is closed.
_GONE_WITHIN = 2.0


async def bring_up(*, detach: bool, workers: bool, as_json: bool) -> int:
    """Start or find the broker and its workers, say where they are, and watch them."""
    settings = embedded_settings()
    before = await find(settings)
    running = before or await ensure_running(settings)
    attached = await start_workers(running) if workers else find_workers(Places(running.folder))
    # Before anything is shown: whoever reads it may press Ctrl-C at once.
    stopped = asyncio.Event() if detach else _stopped_by_signals()
    _show(running, attached, started=before is None, detached=detach, output=Output(as_json))
    if detach:
        return OK
    return await _watch(running, attached, stopped)


def _stopped_by_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    return stopped


def _show(
    running: RunningBroker,
    workers: AttachedWorkers | None,
    *,
    started: bool,
    detached: bool,
    output: Output,
) -> None:
    export = f"export AGENTBUS_URL={shlex.quote(running.url)}"
    client = "valkey-cli" if running.kind == "valkey" else "redis-cli"
    shell = f"{client} -s {shlex.quote(str(running.socket))}"
    if output.json:
        output.record(
            {
                "url": running.url, "export": export, "redis_cli": shell, "kind": running.kind,
                "version": running.version, "folder": str(running.folder), "log": str(running.log),
                "pid": running.pid, "started": started, "workers": workers_record(workers),
            }
        )  # fmt: skip
        return
    output.text(
        f"{running.kind.capitalize()} {running.version} {'started' if started else 'runs already'}, "
        f"process {running.pid}",
        "bold",
    )
    rows = [
        ("workers", workers_text(workers)),
        ("address", running.url), ("environment", export), ("shell", shell),
        ("data", str(running.data)), ("log", str(running.log)),
    ]  # fmt: skip
    for name, value in rows:
        output.text(f"  {name:<12}{value}")
    if detached:
        output.text("They stop after ten minutes without clients, or with `agentbus down`.")
    else:
        output.text("Ctrl-C stops them, unless others are connected.")


async def _watch(running: RunningBroker, workers: AttachedWorkers | None, stopped: asyncio.Event) -> int:
    """Keep one connection, so that the broker counts as used, and tell who goes and comes back."""
    broker = Broker(ConnectionSettings(running.url, client_name=_WATCHER, command_timeout=2.0))
    answers = True
    try:
        while not stopped.is_set():
            try:
                await broker.execute("PING")
                if not answers:
                    say("the broker answers again")
                answers = True
            except BrokerError as error:
                if not Places(running.folder).state.exists() or not _lives(running.keeper_pid):
                    say(f"the broker is gone: somebody stopped it or its keeper, or see {running.log}")
                    return FAILURE
                if answers:
                    say(f"the broker does not answer: {error}; its log is {running.log}")
                answers = False
            workers = tell_changes(workers, find_workers(Places(running.folder)))
            await _wait(stopped)
    finally:
        await broker.close()
    await _stop_unless_used()
    return OK


def _lives(process: int) -> bool:
    """Whether a process runs: without its keeper nobody brings the broker back."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def _wait(stopped: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_LOOK_INTERVAL):
            await stopped.wait()
    except TimeoutError:
        return


async def _stop_unless_used() -> None:
    """Stop the broker; leave it to others who are connected."""
    deadline = asyncio.get_running_loop().time() + _GONE_WITHIN
    while True:
        try:
            ended = await stop(embedded_settings())
            say("the broker is stopped; its data stay" if ended else "the broker had stopped already")
            return
        except BrokerInUse as error:
            others = [client for client in error.clients if client.name != _WATCHER]
            if others:
                say(f"the broker goes on running: {_names(others)} connected. `agentbus down` stops it later")
                return
            if asyncio.get_running_loop().time() >= deadline:
                say("the broker goes on running: another `agentbus up` watches it")
                return
            await asyncio.sleep(0.05)


def _names(clients: list[ConnectedClient]) -> str:
    names = ", ".join(sorted({str(client) for client in clients}))
    return f"{names} {'is' if len(clients) == 1 else 'are'}"


async def take_down(*, force: bool, as_json: bool) -> int:
    """Stop the broker; `BrokerInUse` names who is connected."""
    try:
        ended = await stop(embedded_settings(), force=force)
    except BrokerInUse as error:
        raise BrokerError(
            f"{str(error).removesuffix(' Stop them first, or force it.')} "
            "Stop them first, or use `agentbus down --force`"
        ) from None
    output = Output(as_json)
    if output.json:
        output.record({"stopped": ended is not None, "folder": str(ended.folder) if ended else None})
    elif ended is None:
        output.text("no embedded broker runs")
    else:
        output.text(
            f"stopped {ended.kind.capitalize()} {ended.version}, process {ended.pid}; "
            f"its data stay in {ended.data}"
        )
    return OK
