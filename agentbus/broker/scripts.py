"""The Lua scripts, and the one place that runs them.

EVALSHA with a reload on NOSCRIPT rather than a function library: a library is global to the server, and two
versions of agentbus could not share one. See https://redis.io/docs/latest/commands/evalsha/.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from agentbus.broker.connection import Argument, Broker, Link, ScriptMissing, map_error
from agentbus.errors import BrokerError

_INCLUDE = re.compile(r"^--@include (\w+)$", re.MULTILINE)


#: A command and its arguments.
Command = tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """One script: what EVALSHA needs to name it and EVAL to bring it."""

    name: str
    text: str
    digest: str


@cache
def load(name: str) -> Script:
    """Return the script ``lua/<name>.lua`` with its includes in place."""
    folder = resources.files("agentbus.broker") / "lua"

    def included(match: re.Match[str]) -> str:
        return (folder / "include" / f"{match[1]}.lua").read_text(encoding="utf-8")

    text = _INCLUDE.sub(included, (folder / f"{name}.lua").read_text(encoding="utf-8"))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One script with its keys and arguments."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument]

    def by_digest(self) -> tuple[Argument, ...]:
        """Return the EVALSHA command."""
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.arguments)

    def by_text(self) -> tuple[Argument, ...]:
        """Return the EVAL command, which also makes the server remember the script."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments)


async def run(link: Broker | Link, call: Call) -> Any:
    """Run a script and return its reply. NOSCRIPT means nothing was executed, so it is sent again."""
    try:
        return await link.execute(*call.by_digest())
    except ScriptMissing:
        return await link.execute(*call.by_text())


async def read_together(link: Broker | Link, keys: Sequence[str], commands: Sequence[Command]) -> list[Any]:
    """Read several things at one moment, also on a full server; ``keys`` are all that the commands read.

    One that is refused has its error as reply.
    """
    words = [word for command in commands for word in (len(command), *command)]
    replies = await run(link, Call(load("together"), keys, words))
    return [map_error(reply) if isinstance(reply, Exception) else reply for reply in replies]


async def run_all(link: Broker | Link, calls: Sequence[Call]) -> list[Any]:
    """Run several scripts in one round trip; a refused one has its `BrokerError` as reply."""
    replies = await link.pipeline([call.by_digest() for call in calls])
    for index, reply in enumerate(replies):
        if isinstance(reply, ScriptMissing):
            try:
                replies[index] = await link.execute(*calls[index].by_text())
            except BrokerError as error:
                replies[index] = error
    return replies
