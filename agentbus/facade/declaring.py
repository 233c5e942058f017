"""Declaring: policies, and what recurs."""

from __future__ import annotations

from collections.abc import (
    Mapping,
)
from typing import TYPE_CHECKING, Any

from agentbus.facade.calls import Calls
from agentbus.message.address_policy import Policy
from agentbus.message.current import handling
from agentbus.send.envelope import AnyTopic, Outgoing

if TYPE_CHECKING:
    from agentbus.declarations import Declarations
    from agentbus.schedules.schedules import Schedules


class DeclaringCalls(Calls):
    """What holds until somebody says otherwise."""

    async def declare(self, address: str, policy: Policy) -> None:
        """Declare the policy of an address (``agent.reviewer``) or a topic (``agent.reviewer.task``).

        That of a topic wins over that of its address. Declaring the same again is fine; another one raises
        `PolicyConflict` and changes nothing. A channel takes durability, limit (of its log), history and
        archive; what only an inbox, or only a whole address, can honour raises `InvalidValue`.
        """
        await self._declarations.declare(address, policy)

    async def redeclare(self, address: str, policy: Policy, *, expected: Policy) -> None:
        """Replace the policy of an address or a topic, which is known to be ``expected`` now.

        ``Policy()`` stands for none, so that replacing by it withdraws what was declared. Raises
        `PolicyConflict`, and changes nothing, when another one is stored.
        """
        await self._declarations.redeclare(address, policy, expected)

    async def policy(self, address: str) -> Policy:
        """Return what was declared for an address or a topic itself; every field None when nothing was."""
        return await self._declarations.of(address)

    async def policies(self) -> dict[str, Policy]:
        """Return every declared policy by address or topic.

        Raises `InvalidValue` for one that was written by hand and is none.
        """
        return await self._declarations.all()

    @property
    def _declarations(self) -> Declarations:
        from agentbus.broker.policy_store import PolicyStore
        from agentbus.declarations import Declarations

        return Declarations(PolicyStore(self.rooms.broker, self.settings.prefix))

    @property
    def schedules(self) -> Schedules:
        """Recurring messages: ``add``, ``list``, ``get``, ``pause``, ``resume``, ``cancel``."""
        from agentbus.broker.inspection.inbox_view import known_addresses
        from agentbus.broker.keys import ticking
        from agentbus.broker.schedules import ScheduleStore
        from agentbus.broker.wake import Wake
        from agentbus.schedules.schedules import Schedules

        broker, prefix = self.rooms.broker, self.settings.prefix

        def composed(topic: AnyTopic, body: Any, options: Mapping[str, Any]) -> Outgoing:
            # What recurs has no one cause, even when a handler adds it.
            with handling(None):
                return self._composed(topic, body, options)

        return Schedules(
            ScheduleStore(broker, prefix, self.settings.publisher.address_limit),
            Wake(broker, ticking(prefix)),
            composed,
            lambda: known_addresses(broker, prefix),
            self._sender.agent,
        )
