"""The workers beside the embedded broker: ordered, awaited, told of."""

from __future__ import annotations

import asyncio
from typing import Any

from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.embedded import RunningBroker
from agentbus.broker.embedded.attached import AttachedWorkers, find_workers, order_workers
from agentbus.broker.embedded.places import Places
from agentbus.broker.worker_registry import WorkerRegistry
from agentbus.cli.services import service_command
from agentbus.cli.session import say
from agentbus.errors import BrokerError
from agentbus.message.durations import readable
from agentbus.settings import default_settings

#: Seconds that workers get to show that they live.
_START_SECONDS = 10.0
_POLL_SECONDS = 0.05


async def start_workers(running: RunningBroker) -> AttachedWorkers | None:
    """Have workers run beside the broker, and return them when they live or have said why they do not.

    A broker that can be used is worth more than none: what is wrong with the workers is told, not raised.
    """
    places = Places(running.folder)
    command = service_command("workers", ["--url", running.url, "--until-input-ends"])
    try:
        found = await order_workers(places, running.keeper_pid, command.arguments, command.environment)
    except BrokerError as error:
        say(f"agentbus: {error}")
        return None
    await _alive(running, places, found)
    return find_workers(places)


async def _alive(running: RunningBroker, places: Places, found: AttachedWorkers) -> None:
    """Wait until the workers are seen in the registry, or have ended."""
    broker = Broker(ConnectionSettings(running.url, client_name="agentbus:up", command_timeout=2.0))
    registry = WorkerRegistry(broker, default_settings().prefix)
    try:
        async with asyncio.timeout(_START_SECONDS):
            while found.pid is not None:
                if any(worker.pid == found.pid for worker in (await registry.roll()).workers):
                    return
                await asyncio.sleep(_POLL_SECONDS)
                found = find_workers(places) or found
    except (TimeoutError, BrokerError):
        say(f"agentbus: the workers have not shown up yet; see {found.log}")
    finally:
        await broker.close()


def workers_record(workers: AttachedWorkers | None) -> dict[str, Any] | None:
    """Return the workers for a program."""
    if workers is None:
        return None
    return {"pid": workers.pid, "starts": workers.starts, "ended": workers.ended, "log": str(workers.log)}


def workers_text(workers: AttachedWorkers | None) -> str:
    """Return the workers for people."""
    if workers is None:
        return "none"
    if workers.pid is not None:
        return f"process {workers.pid}, log {workers.log}"
    return _ending(workers)


def tell_changes(before: AttachedWorkers | None, after: AttachedWorkers | None) -> AttachedWorkers | None:
    """Say what has happened to the workers between two looks; return the later one."""
    if after is None or after == before:
        return after
    if after.pid is None:
        say(f"the workers {_ending(after)}")
    elif before is None or after.pid != before.pid:
        why = f" after they {after.ended}" if before is not None and after.ended != before.ended else ""
        say(f"the workers run as process {after.pid}{why}")
    return after


def _ending(workers: AttachedWorkers) -> str:
    again = (
        "they are not started again, see" if workers.again_in is None
        else f"they are started again in {readable(workers.again_in)}; see"
    )  # fmt: skip
    return f"{workers.ended or 'have not started'}; {again} {workers.log}"
