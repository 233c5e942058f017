"""Declaring policies: once, replaced only by whoever knows what is there, shown."""

from __future__ import annotations

from collections.abc import Mapping

from agentbus.broker.policy_store import PolicyStore
from agentbus.errors import InvalidValue, PolicyConflict
from agentbus.message.address_policy import Policy, as_given, by_scope, check_scope
from agentbus.message.topics import is_channel, parse_scope


class Declarations:
    """The declared policies of one deployment. An address may also be a topic: then of that type alone."""

    def __init__(self, store: PolicyStore) -> None:
        self._store = store

    async def declare(self, address: str, policy: Policy) -> None:
        """Declare a policy where there is none; raises `PolicyConflict` where there is another one."""
        if policy.declared():
            await self._store_policy(address, policy, Policy())
            return
        # Nothing to declare; that is no order to withdraw, but it contradicts whatever is there.
        stored = await self.of(address)
        if stored.declared():
            raise _conflict(address, stored.to_fields(), {})

    async def redeclare(self, address: str, policy: Policy, expected: Policy) -> None:
        """Replace the policy that is expected there; raises `PolicyConflict` where there is another one."""
        await self._store_policy(address, policy, expected)

    async def _store_policy(self, address: str, policy: Policy, expected: Policy) -> None:
        place, scope = parse_scope(address)
        if is_channel(place):
            policy.check_for_channel(place)
            if scope:
                raise InvalidValue(
                    "address", f"{place} is a channel, and has one policy for all types: {place}"
                )
        elif scope:
            check_scope(policy, address)
        wanted, known = policy.to_fields(), expected.to_fields()
        answer = await self._store.declare(place, scope, wanted, known)
        if answer.kind == "conflict":
            raise _conflict(_name(place, scope), answer.before, known or wanted)

    async def of(self, address: str) -> Policy:
        """Return what is declared for an address or a topic itself."""
        place, scope = parse_scope(address)
        return Policy.from_fields(by_scope(await self._store.read(place)).get(scope, {}))

    async def at(self, address: str) -> dict[str, Policy]:
        """Return what is declared for an address and for its topics, by address or topic."""
        return _by_name(address, await self._store.read(address))

    async def all(self) -> dict[str, Policy]:
        """Return every declared policy by address or topic, sorted."""
        found: dict[str, Policy] = {}
        async for address, stored in self._store.walk():
            found |= _by_name(address, stored)
        return dict(sorted(found.items()))


def _by_name(address: str, stored: Mapping[str, str]) -> dict[str, Policy]:
    scopes = sorted(by_scope(stored).items())
    return {_name(address, scope): Policy.from_fields(fields) for scope, fields in scopes}


def _name(address: str, scope: str) -> str:
    return f"{address}.{scope}" if scope else address


def _conflict(address: str, stored: Mapping[str, str], other: Mapping[str, str]) -> PolicyConflict:
    there, wanted = as_given(stored), as_given(other)
    differences = [
        f"{field} is {there.get(field, 'unset')}, not {wanted.get(field, 'unset')}"
        for field in sorted({*there, *wanted})
        if there.get(field) != wanted.get(field)
    ]
    return PolicyConflict(f"{address} was declared with another policy before: {'; '.join(differences)}")
