"""Bindings as a table and as JSON, and removed."""

from __future__ import annotations

from dataclasses import asdict

from agentbus.bindings.bindings import Binding
from agentbus.cli.output import Output, count, new_table
from agentbus.cli.session import NOT_FOUND, OK, Failure, open_bus


async def show_bindings(*, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show every binding with its counters."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        found = await bus.bindings()
    if output.json:
        for binding in found:
            output.record(asdict(binding))
    elif not found:
        output.text('nothing is bound; an agent does that with agent.bind("agent.*.status")')
    else:
        table = new_table("", ["agent", "pattern", "since", ">copied", ">refused"])
        table.title = None
        for binding in found:
            since = "" if binding.since is None else f"{binding.since.astimezone():%Y-%m-%d %H:%M:%S}"
            table.add_row(binding.agent, binding.pattern, since, count(binding.copied), _refused(binding))
        output.table(table)
    return OK


def _refused(binding: Binding) -> str:
    return ", ".join(f"{many} {reason}" for reason, many in sorted(binding.refused.items())) or count(0)


async def remove_binding(
    agent: str, pattern: str, *, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Remove a binding; raises `Failure` when there is none."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        if not await bus.unbind(agent, pattern):
            raise Failure(f"agent {agent} is not bound to {pattern!r}; see: agentbus bindings", NOT_FOUND)
    if output.json:
        output.record({"agent": agent, "pattern": pattern, "removed": True})
    else:
        output.text(f"agent {agent} gets no more copies of {pattern}")
    return OK
