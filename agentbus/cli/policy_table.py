"""Policies as tables and as JSON, declared and withdrawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentbus.broker.connection import Broker
from agentbus.broker.keys import policy as policy_key
from agentbus.broker.policy_store import PolicyStore
from agentbus.cli.output import Output, new_table
from agentbus.cli.session import NOT_FOUND, OK, USAGE, Failure, open_bus, say
from agentbus.declarations import Declarations
from agentbus.errors import BrokerRefused, InvalidValue, PolicyConflict
from agentbus.message.address_policy import DURATIONS, FIELDS, TOPIC_FIELDS, Policy, parse_policy
from agentbus.message.durations import exact, milliseconds
from agentbus.message.policy import Retry
from agentbus.message.topics import parse_scope
from agentbus.settings import AgentSettings, PublisherSettings, RetentionSettings

if TYPE_CHECKING:
    from agentbus.bus import Bus

_DEFAULTS: Mapping[str, Any] = {
    "durability": "disk for critical and high where possible, else stream",
    "acknowledgement": "handled",
    "max_retries": Retry().max_retries,
    "retry_delay": Retry().retry_delay,
    "when_exhausted": Retry().when_exhausted,
    "acknowledgement_timeout": AgentSettings().pulled_timeout,
    "limit": PublisherSettings().address_limit,
    "history_messages": RetentionSettings().messages,
    "history_age": RetentionSettings().age,
    "history_bytes": RetentionSettings().bytes,
    "archive": "required",
    "dead_limit": RetentionSettings().dead,
    "dead_age": RetentionSettings().dead_age,
    "dead_retries": 0,
    "dead_retry_delay": "1h",
}


async def show_all(*, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show every declared policy."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        declared = await bus.policies()
    if output.json:
        for place, policy in declared.items():
            output.record({"address": place, "policy": shown(policy)})
    elif not declared:
        output.text("no policy is declared; declare one: agentbus policy set reviewer limit=1000")
    else:
        table = new_table("", ["address or topic", "policy"])
        table.title = None
        for place, policy in declared.items():
            table.add_row(place, policy_text(policy))
        output.table(table)
    return OK


async def show_one(address: str, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show what holds in one place, and why."""
    output = Output(as_json)
    place, message_type = parse_scope(address)
    topic = f"{place}.{message_type}" if message_type else None
    async with open_bus(url, prefix) as bus:
        own = await bus.policy(place)
        of_topic = await bus.policy(topic) if topic else Policy()
    rows = list(_in_force(own, of_topic, TOPIC_FIELDS if topic else FIELDS))
    if output.json:
        in_force = {name: {"value": value, "from": source} for name, value, source in rows}
        output.record(
            {"address": topic or place, "policy": shown(of_topic if topic else own)} | {"in_force": in_force}
        )
        return OK
    table = new_table(topic or place, ["field", "value", "from"])
    for name, value, source in rows:
        table.add_row(
            name, "" if value is None else str(value), source, style="dim" if source == "default" else None
        )
    output.table(table)
    output.text("A message's own options and a handler's own Retry go before these.", "dim")
    return OK


def _in_force(own: Policy, of_topic: Policy, names: Sequence[str]) -> Any:
    """Yield (field, value, where it comes from)."""
    for name in names:
        for policy, source in ((of_topic, "topic"), (own, "address")):
            if getattr(policy, name) is not None:
                yield name, shown(policy)[name], source
                break
        else:
            yield name, _readable(name, _DEFAULTS.get(name)), "default"


async def declared_at(broker: Broker, prefix: str, address: str) -> dict[str, Policy]:
    """Return what is declared for an address and its topics; nothing for a key written by hand."""
    try:
        return await Declarations(PolicyStore(broker, prefix)).at(address)
    except (InvalidValue, BrokerRefused) as error:
        say(f"agentbus: {address}: {error}; `agentbus doctor` tells what to do")
        return {}


async def declare(
    address: str, fields: Sequence[str], *, replace: bool, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Declare a policy; with ``replace`` over what is there, if it is still what was seen."""
    policy = parse_policy(dict(_pair(field) for field in fields))
    async with open_bus(url, prefix) as bus:
        before = await _stored(bus, address)
        if replace:
            await bus.redeclare(address, policy, expected=before)
        else:
            await _declare_once(bus, address, policy)
    _tell(Output(as_json), address, before, policy)
    return OK


async def _stored(bus: Bus, address: str) -> Policy:
    """Return what is declared; somebody's hand may have written what is no policy."""
    place, _ = parse_scope(address)
    try:
        return await bus.policy(address)
    except InvalidValue as error:
        key = policy_key(bus.settings.prefix, place)
        raise Failure(f"{place}: {error}. Somebody wrote it by hand: repair or delete {key}") from error


async def _declare_once(bus: Bus, address: str, policy: Policy) -> None:
    try:
        await bus.declare(address, policy)
    except PolicyConflict as error:
        raise Failure(f"{error}. Replace it with --replace, or leave it") from error


async def withdraw(address: str, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Withdraw what is declared, if it is still what was seen."""
    async with open_bus(url, prefix) as bus:
        before = await _stored(bus, address)
        if not before.declared():
            raise Failure(
                f"nothing is declared for {address}; `agentbus policy show` lists what is", NOT_FOUND
            )
        await bus.redeclare(address, Policy(), expected=before)
    _tell(Output(as_json), address, before, Policy())
    return OK


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise Failure(f"{text!r} is not field=value, for example limit=1000; --help lists the fields", USAGE)
    return name, value


def _tell(output: Output, address: str, before: Policy, after: Policy) -> None:
    place, message_type = parse_scope(address)
    name = f"{place}.{message_type}" if message_type else place
    if output.json:
        output.record({"address": name, "before": shown(before), "after": shown(after)})
    elif before == after:
        output.text(f"{name}: {policy_text(after)} (as before)")
    else:
        output.text(f"{name}: {policy_text(before)} → {policy_text(after)}")


def shown(policy: Policy) -> dict[str, Any]:
    """Return the declared fields with durations for people."""
    return {name: _readable(name, value) for name, value in policy.declared().items()}


def policy_text(policy: Policy) -> str:
    """Return a policy on one line."""
    return " ".join(f"{name}={value}" for name, value in shown(policy).items()) or "none"


def _readable(name: str, value: Any) -> Any:
    """Return a value for people, as it can be given."""
    if isinstance(value, tuple):
        return ",".join(value)
    return exact(milliseconds(value, name)) if name in DURATIONS and value is not None else value
