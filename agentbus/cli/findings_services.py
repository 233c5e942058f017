"""Findings about what stands beside the messages: workers, the archive, declared policies, owed copies."""

from __future__ import annotations

from agentbus.broker.archiving import ArchiveSwitch, backlogs_of
from agentbus.broker.backlog import Backlog
from agentbus.broker.connection import Broker
from agentbus.broker.inspection import known_addresses
from agentbus.broker.keys import policy as policy_key
from agentbus.broker.owed import DebtStore
from agentbus.broker.policy_store import PolicyStore
from agentbus.broker.worker_registry import ABSENT_AFTER_MS, RoleState, WorkerRegistry
from agentbus.cli.findings import BAD, OK_, WARN, Finding
from agentbus.cli.output import age, plural
from agentbus.errors import BrokerError, BrokerRefused, InvalidValue
from agentbus.message.address_policy import Policies, by_scope

#: Copies that are overdue for this long are made by nobody.
_FORGOTTEN_MS = 60_000
#: Behind by this much, the archive is worth a word; an error that is younger than this may be why.
_BEHIND_MS, _RECENT_MS = 60_000, 60_000
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


async def examine_archive(broker: Broker, prefix: str) -> list[Finding]:
    """Say whether the archive, where one is on, keeps up; nothing where none is."""
    try:
        since = await ArchiveSwitch(broker, prefix).since_ms()
        if since is None:
            return []
        roll = await WorkerRegistry(broker, prefix).roll()
        looks = await backlogs_of(broker, prefix, await known_addresses(broker, prefix))
    except BrokerRefused:
        # The key that is wrong is named by the examination of workers or of addresses.
        return []
    states = [
        worker.roles["archive"]
        for worker in roll.workers
        if roll.server_ms - worker.seen_at <= ABSENT_AFTER_MS and "archive" in worker.roles
    ]
    behind = max((look.lag_ms for _, look in looks if isinstance(look, Backlog)), default=0)
    return [_of_archive([state for state in states if not state.idle], behind, roll.server_ms)]


def _of_archive(working: list[RoleState], behind_ms: int, server_ms: int) -> Finding:
    if not working:
        advice = (
            "nothing leaves Redis before it is archived, and addresses fill up: start a worker with "
            "AGENTBUS_ARCHIVE, or agentbus archive off"
        )
        return Finding("archive", BAD, "it is on, and no worker archives", advice)
    if behind_ms <= _BEHIND_MS:
        return Finding("archive", OK_, f"on, {plural(len(working), 'worker')} at it")
    errors = [
        state.last_error for state in working if state.error_at and server_ms - state.error_at <= _RECENT_MS
    ]
    why = f": {errors[0]}" if errors else ""
    advice = "until it has caught up history stays and addresses fill up; agentbus archive status"
    return Finding("archive", WARN, f"{age(behind_ms)} behind{why}", advice)


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


async def examine_owed(broker: Broker, prefix: str) -> list[Finding]:
    """Say where copies for bound agents are owed and nobody makes them; nothing where none are."""
    debts = DebtStore(broker, prefix)
    try:
        addresses = await debts.addresses()
        counts = await debts.older_than(addresses, _FORGOTTEN_MS)
    except BrokerRefused as error:
        return [Finding("owed copies", BAD, str(error), "another program wrote to that key: DEL it")]
    findings = []
    for address, many in zip(addresses, counts, strict=True):
        if isinstance(many, BrokerError):
            # Named by the examination of addresses.
            continue
        if many:
            detail = f"copies of {plural(many, 'message')} are owed to bound agents, and nobody makes them"
            advice = "their publisher died: agentbus workers run reclaim, or start an agent that is bound"
            findings.append(Finding(address, WARN, detail, advice))
    return findings
