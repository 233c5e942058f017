"""Findings about what stands beside the messages: workers, and declared policies."""

from __future__ import annotations

from agentbus.broker.connection import Broker
from agentbus.broker.keys import policy as policy_key
from agentbus.broker.policy_store import PolicyStore
from agentbus.broker.worker_registry import ABSENT_AFTER_MS, WorkerRegistry
from agentbus.cli.findings import BAD, OK_, WARN, Finding
from agentbus.cli.output import plural
from agentbus.errors import BrokerRefused, InvalidValue
from agentbus.message.address_policy import Policies, by_scope

_ADVICE = "messages to addresses that nobody serves stay due: agentbus up, or agentbus workers run"


async def examine_workers(broker: Broker, prefix: str) -> list[Finding]:
    """Say how many workers live, which died, and what they last ran into."""
    try:
        roll = await WorkerRegistry(broker, prefix).roll()
    except BrokerRefused as error:
        return [Finding("workers", BAD, str(error), "another program wrote to that key: DEL it")]
    living = [worker for worker in roll.workers if roll.server_ms - worker.seen_at <= ABSENT_AFTER_MS]
    summary = f"{plural(len(living), 'worker')} alive" if living else "none run"
    findings = [Finding("workers", OK_, summary, "" if living else _ADVICE)]
    for worker in roll.workers:
        if worker not in living:
            detail = f"{worker.id} died less than ten minutes ago"
            findings.append(Finding("workers", WARN, detail, "see its log; the others do its share"))
    return findings


async def examine_policies(broker: Broker, prefix: str) -> list[Finding]:
    """Say how many policies are declared, and which cannot be read."""
    findings, declared = [], 0
    try:
        async for address, stored in PolicyStore(broker, prefix).walk():
            try:
                Policies.from_fields(stored)
                declared += len(by_scope(stored))
            except InvalidValue as error:
                advice = f"it is ignored until somebody repairs or deletes {policy_key(prefix, address)}"
                findings.append(Finding(address, BAD, f"its policy cannot be read: {error}", advice))
    except BrokerRefused:
        # The address whose key is wrong is named by the examination of addresses.
        return findings
    return [*findings, Finding("policies", OK_, f"{declared:,} declared")] if declared else findings
