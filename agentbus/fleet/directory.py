"""The directory of agents: who there is, who can do what, and whether a name is known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from agentbus.broker.registry import Registry
from agentbus.errors import NoSuchAgent, UnknownRecipients
from agentbus.fleet.info import AgentInfo, info_of
from agentbus.message.topics import check_name

_MOST_CLOSE = 3
#: Unknown names of one message that are told, each with close ones.
_MOST_NAMED = 10


class Directory:
    """Looks agents up; a name is known when it was served once and not forgotten since."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def agents(self, type: str | None = None, capability: str | None = None) -> list[AgentInfo]:
        """Return every known agent by name, of one type and with one capability if given."""
        if capability is not None:
            check_name(capability, "capability")
        now, stored = await self._registry.all()
        return [
            info_of(agent, now)
            for agent in stored
            if (type is None or agent.type == type)
            and (capability is None or capability in agent.capabilities)
        ]

    async def agent(self, name: str) -> AgentInfo:
        """Return one agent; raises `NoSuchAgent` that names close ones."""
        wanted = _name_of(name)
        stored = await self._registry.get(wanted)
        if stored is None:
            raise await self._no_such(wanted)
        return info_of(stored, await self._registry.server_ms())

    async def forget(self, name: str) -> None:
        """Take an agent out of the directory; raises `NoSuchAgent` when it is not there."""
        wanted = _name_of(name)
        if not await self._registry.forget(wanted):
            raise await self._no_such(wanted)

    async def check_known(self, names: Sequence[str]) -> None:
        """Raise `UnknownRecipients` unless every one of these was registered and not forgotten."""
        unknown = await self._registry.unknown(names)
        if unknown:
            # Comparing a thousand names with a thousand others holds up the event loop for half a minute.
            close = await self._close(unknown[:_MOST_NAMED])
            named = ", ".join(
                f"{name} (did you mean {' or '.join(near)}?)" if near else name
                for name, near in close.items()
            )
            more = len(unknown) - len(close)
            raise UnknownRecipients(
                f"unknown recipients, nothing was sent: {named}" + (f" and {more:,} more" if more else ""),
                unknown={name: close.get(name, ()) for name in unknown},
            )

    async def _no_such(self, name: str) -> NoSuchAgent:
        near = (await self._close([name]))[name]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return NoSuchAgent(f"no agent was ever registered as {name}{hint}")

    async def _close(self, unknown: Sequence[str]) -> dict[str, tuple[str, ...]]:
        known = await self._registry.names()
        return {name: tuple(difflib.get_close_matches(name, known, n=_MOST_CLOSE)) for name in unknown}


def _name_of(text: str) -> str:
    """Return a bare name; ``agent.reviewer`` is taken for ``reviewer``."""
    return check_name(text.removeprefix("agent.") if isinstance(text, str) else text, "name")
