"""What the tests of owed copies share: publishers that die in time, and eyes on what is owed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentbus import Bus
from agentbus.bindings import companion, debts
from agentbus.broker.carry import Carrier
from agentbus.broker.keys import owed, owing
from agentbus.message import owed as notes
from agentbus.message.copies import RefusedCopy
from workers import reclaim

_ROOT = Path(__file__).parents[1]
#: Publishes, and is killed when everything is stored and before the first copy is made.
_DIES = """
import asyncio, os, signal, sys
from agentbus import Bus, BusSettings
from agentbus.broker.carry import Carrier
from agentbus.message import owed
from tests.service import working
from workers.recurring import Recurring

stored = 0

async def die(_self, address, loads):
    global stored
    stored += len(loads)
    if stored == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.Event().wait()

async def main(url, prefix):
    owed.GRACE_MS = 1
    Carrier.carry_all = die
    async with Bus(url, agent="sender", settings=BusSettings(prefix=prefix)) as bus:
        {what}

asyncio.run(main(*sys.argv[1:3]))
"""


def quicken_debts(patch: pytest.MonkeyPatch) -> None:
    """Make copies good at once, where it takes about a minute otherwise."""
    patch.setattr(notes, "GRACE_MS", 1)
    patch.setattr(debts, "QUIET_MS", 20)
    patch.setattr(companion, "_LOOK_AGAIN", 0.02)
    patch.setattr(reclaim, "_PAY", 0.02)


async def die_owing(bus: Bus, copies: int, what: str) -> None:
    """Run a publisher that does ``what`` with its ``bus``, and is killed before it makes so many copies."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _DIES.replace("{what}", what),
        bus._url,
        bus.settings.prefix,
        str(copies),
        cwd=_ROOT,
    )
    assert await process.wait() == -9


async def owe(publish: Callable[[], Awaitable[Any]]) -> Any:
    """Publish while no copy can be made; returns what the publisher was told."""

    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Carrier, "carry_all", hang)
        stored = await publish()
    assert {one.reason for one in stored.refused_copies} == {"deadline"}
    assert all(isinstance(one, RefusedCopy) for one in stored.refused_copies)
    return stored


async def owed_at(client: Any, bus: Bus, address: str) -> list[str]:
    """Return the ids of the messages of an address of which copies are owed."""
    index, messages = owed(bus.settings.prefix, address)
    ids = [name.decode() for name in await client.zrange(index, 0, -1)]
    assert sorted(ids) == sorted(name.decode() for name in await client.hkeys(messages))
    return ids


async def nothing_owed(client: Any, bus: Bus) -> bool:
    """Whether no copy is owed anywhere, also where nobody would look."""
    found = [key async for key in client.scan_iter(f"{bus.settings.prefix}:*owed*")]
    return not found


async def pay(client: Any, bus: Bus) -> None:
    """Make good what is owed, as whoever looks does; now, whatever the time of the next look is."""
    names = await client.zrange(owing(bus.settings.prefix), 0, -1)
    if names:
        await client.zadd(owing(bus.settings.prefix), dict.fromkeys(names, 0))
    await bus.rooms.debts.pay()
