"""Agents as tables and as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from rich.text import Text

from agentbus.broker.registry import Registry
from agentbus.cli.output import Output, moment, new_table
from agentbus.cli.session import OK, open_broker, settings_with
from agentbus.fleet.directory import Directory
from agentbus.fleet.info import AgentInfo


@asynccontextmanager
async def _directory(url: str | None, prefix: str | None) -> AsyncIterator[Directory]:
    async with open_broker(url) as broker:
        yield Directory(Registry(broker, settings_with(prefix).prefix))


async def show_agents(
    agent_type: str | None, capability: str | None, *, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Show every known agent."""
    output = Output(as_json)
    async with _directory(url, prefix) as directory:
        found = await directory.agents(agent_type, capability)
    if output.json:
        for agent in found:
            output.record(agent.to_record())
        return OK
    if not found:
        output.text("no such agents" if agent_type or capability else "no agent was ever served", "dim")
        return OK
    table = new_table("", ["agent", "type", "capabilities", ">processes", "last seen"])
    table.title = None
    for agent in found:
        count = sum(instance.online for instance in agent.instances)
        table.add_row(
            agent.name, agent.type, ", ".join(agent.capabilities), _presence(count), _moment(agent.last_seen)
        )
    output.table(table)
    return OK


async def show_agent(name: str, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show one agent with its processes."""
    output = Output(as_json)
    async with _directory(url, prefix) as directory:
        agent = await directory.agent(name)
    if output.json:
        output.record(agent.to_record())
    else:
        _print(agent, output)
    return OK


async def forget_agent(name: str, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Take one agent out."""
    output = Output(as_json)
    async with _directory(url, prefix) as directory:
        await directory.forget(name)
    if output.json:
        output.record({"name": name.removeprefix("agent."), "state": "forgotten"})
    else:
        output.text(f"{name} is forgotten; its inbox stays as it is")
    return OK


def _print(agent: AgentInfo, output: Output) -> None:
    can = f", can {', '.join(agent.capabilities)}" if agent.capabilities else ""
    output.text(f"{agent.name}, a {agent.type}{can}", "bold")
    known = f"known since {_moment(agent.registered_at)}, last seen {_moment(agent.last_seen)}"
    output.text(f"  {known}", "dim")
    table = new_table("", ["  process", "host", ">pid", "since", "last seen", ""])
    table.title = None
    for each in agent.instances:
        state = Text("online", "green") if each.online else Text("silent", "yellow")
        table.add_row(
            f"  {each.id}", each.host, str(each.pid), _moment(each.since), _moment(each.last_seen), state
        )
    if agent.instances:
        output.table(table)
    else:
        output.text("  no process serves it", "dim")


def _presence(count: int) -> Text:
    return Text(str(count), "green") if count else Text("·", "dim")


def _moment(at: datetime) -> str:
    return moment(round(at.timestamp() * 1000))
