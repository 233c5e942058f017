"""An agent in a process of its own, for tests that kill, freeze and stop it.

Started as ``python -m tests.agents.program <options as JSON>``. Every handler writes a line to the log file
when it begins and one when it ends. What a message asks for is its type; see the handlers.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from agentbus import Agent, AgentSettings, Bus, Context, Retry
from agentbus.recipients.marks import Marks

Function = TypeVar("Function", bound=Callable[..., Any])


class Log:
    """One file that several processes append whole lines to."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, **fields: Any) -> None:
        line = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **fields}
        os.write(self._file, json.dumps(line).encode() + b"\n")


def build(options: dict[str, Any], log: Log) -> Agent:  # noqa: C901 - a list of handlers
    """Return the agent with a handler for everything that tests need done."""
    settings = AgentSettings(**options.get("settings", {}))
    agent = Agent(
        options["name"],
        pools=options.get("pools", ()),
        concurrency=options.get("concurrency", 10),
        settings=settings,
    )

    def on(kind: str, **handling: Any) -> Callable[[Function], Function]:
        """Register a handler for the inbox, and for the channel that the agent reads, if it reads one."""

        def register(function: Function) -> Function:
            agent.on(kind, **handling)(function)
            if "channel" in options:
                agent.on(f"{options['channel']}.{kind}", start="beginning", **handling)(function)
            return function

        return register

    def begin(context: Context) -> dict[str, Any]:
        content = context.message.content
        fields = {
            "n": content.get("n"),
            "attempt": context.attempt,
            "crashes": context.delivery.state.get("crashes", 0),
            "type": context.message.message_type,
            "gap": context.gap and context.gap.missed,
        }
        log.write("begin", **fields)
        return fields

    @on("note")
    async def note(context: Context) -> None:
        log.write("end", **begin(context))

    @on("sleep")
    async def sleep(body: dict[str, Any], context: Context) -> None:
        fields = begin(context)
        await asyncio.sleep(
            body["after_crash"] if fields["crashes"] and "after_crash" in body else body["seconds"]
        )
        log.write("end", **fields)

    @on("steps")
    async def steps(body: dict[str, Any], context: Context) -> None:
        """Writes a line every hundredth of a second: a frozen process must not write one more."""
        fields = begin(context)
        left = body.get("steps_after_crash") if fields["crashes"] else None
        while left is None or left > 0:
            await asyncio.sleep(0.01)
            log.write("step", **fields)
            left = None if left is None else left - 1
        log.write("end", **fields)

    @on("parts")
    async def parts(body: dict[str, Any], context: Context) -> AsyncIterator[dict[str, Any]]:
        """Yields some parts; before the last one it waits for ever, if nobody has died over it."""
        fields = begin(context)
        for part in range(body["parts"]):
            if part == body["parts"] - 1 and not fields["crashes"]:
                await asyncio.Event().wait()
            yield {"part": part, "pid": os.getpid()}

    @on("block")
    async def block(body: dict[str, Any], context: Context) -> None:
        fields = begin(context)
        time.sleep(body["seconds"])  # noqa: ASYNC251 - what it is for
        log.write("end", **fields)

    @on("spin")
    async def spin(body: dict[str, Any], context: Context) -> None:
        fields = begin(context)
        end = time.monotonic() + body["seconds"]
        while time.monotonic() < end:
            pass
        log.write("end", **fields)

    @on("thread")
    def thread(body: dict[str, Any], context: Context) -> None:
        fields = begin(context)
        # Counted, not timed: a process that was frozen goes on where it was.
        for _ in range(int(body["seconds"] / 0.02)):
            if context.cancelled:
                log.write("cancelled", **fields)
            time.sleep(0.02)
        log.write("end", **fields)

    @on("effect")
    async def effect(context: Context) -> None:
        """Dies after its effect and before its settlement, the first time."""
        fields = begin(context)
        log.write("end", **fields)
        if not fields["crashes"]:
            os.kill(os.getpid(), signal.SIGKILL)

    @on("fails", retry=Retry(max_retries=1000, retry_delay=0.01))
    async def fails(context: Context) -> None:
        begin(context)
        raise ValueError("as always")

    @on("poison")
    async def poison(context: Context) -> None:
        begin(context)
        os.kill(os.getpid(), signal.SIGKILL)

    return agent


async def _forgotten(_self: Marks) -> None: ...


async def main(options: dict[str, Any]) -> None:
    log = Log(options["log"])
    agent = build(options, log)
    if not options.get("marks", True):
        # As if it were always killed before it can write its receipts.
        Marks.flush = _forgotten  # type: ignore[method-assign]
    async with Bus(options["url"], agent=options["name"]) as bus:
        bus.events.listen(lambda event: log.write("event", action=event.action, detail=event.detail))
        log.write("ready")
        await bus.serve(agent)
    log.write("left")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
