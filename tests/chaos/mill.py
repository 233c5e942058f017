"""The processes of the soak run: they publish, handle and trim as fast as the bus lets them."""

from __future__ import annotations

import asyncio
import signal

from agentbus import Agent, Bus
from agentbus.broker.keys import inbox_keys
from workers.membership import new_worker_id
from workers.role import Ground
from workers.roles import chosen
from workers.service import Service
from workers.settings import WorkerSettings
from workers.share import Share

_CHUNK = 2_000
#: Messages that may be on their way: more would measure the backlog, not the history.
_AHEAD = 20_000
#: Large enough for the history to be most of what the server holds.
_BODY = "grain " * 60


async def publish(*, url: str, folder: str, name: str, messages: int) -> None:
    """Publish so many messages, at most ``_AHEAD`` of them ahead of their handlers."""
    async with Bus(url, agent="miller") as bus:
        ledger = inbox_keys(bus.settings.prefix, f"agent.{name}").ledger

        async def processed() -> int:
            return int(await bus.rooms.broker.execute("HGET", ledger, "processed") or 0)

        before, sent = await processed(), 0
        while sent < messages:
            count = min(_CHUNK, messages - sent)
            results = await bus.publish_many(f"agent.{name}.grain", [_BODY] * count)
            problems = [result for result in results if isinstance(result, Exception)]
            if problems:
                raise problems[0]
            sent += count
            while sent - (await processed() - before) > _AHEAD:
                await asyncio.sleep(0.005)


async def serve(*, url: str, folder: str, name: str) -> None:
    """Handle messages until SIGTERM."""
    agent = Agent(name, concurrency=64)

    @agent.on("grain")
    async def handle(body: str) -> None: ...

    async with Bus(url) as bus:
        await bus.serve(agent)


async def work(*, url: str, folder: str, roles: list[str]) -> None:
    """Be a worker process until SIGTERM."""
    async with Bus(url, agent="workers") as bus:
        ground = Ground(bus, WorkerSettings(), Share(new_worker_id()))
        service = Service(ground, [kind(ground) for kind in chosen(roles)])
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.stop)
        await service.run()
