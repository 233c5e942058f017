"""Walking over all addresses in small steps."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agentbus.broker import keys
from workers.role import Ground

#: Addresses asked of the server at once.
_STEP = 200


async def addresses(ground: Ground) -> AsyncIterator[list[str]]:
    """Yield every address in use, some at a time, at the pace the settings allow; ends when stopping.

    SSCAN with a cursor: a set of ten thousand is never read in one command. An address that comes or goes
    meanwhile may be missed once, and one may come twice.
    """
    broker, key = ground.bus.rooms.broker, keys.addresses(ground.bus.settings.prefix)
    cursor = b"0"
    while not ground.stopping.is_set():
        cursor, found = await broker.execute("SSCAN", key, cursor, "COUNT", _STEP)
        names = [name.decode(errors="replace") for name in found]
        if names:
            yield names
        if cursor == b"0":
            return
        await ground.pause(len(names) / ground.settings.addresses_per_second)


async def my_addresses(ground: Ground, role: str) -> AsyncIterator[list[str]]:
    """Yield those addresses that are this process's share of a role."""
    async for names in addresses(ground):
        mine = [name for name in names if ground.share.mine(role, name)]
        if mine:
            yield mine
