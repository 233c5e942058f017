"""Looking again and again: a screen that is written over for people, a line for each look for programs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from agentbus.cli.output import Output
from agentbus.cli.session import say
from agentbus.errors import BrokerUnavailable

#: Takes the width of the terminal; returns a look for programs and for people.
Look = Callable[[int], Awaitable[tuple[Mapping[str, Any], RenderableType]]]


async def show(look: Look, output: Output, *, every: float | None) -> None:
    """Show one look, or one every so many seconds until cancelled.

    Raises `BrokerUnavailable` when the first one fails; later outages are shown and watched through.
    """
    width = 0 if output.json else output.console.width
    record, picture = await look(width)
    if output.json:
        output.record(record)
        if every is not None:
            await _print_records(look, output, every)
    elif every is not None:
        await _paint(look, output.console, picture, every)
    else:
        output.console.print(picture)


async def _print_records(look: Look, output: Output, every: float) -> None:
    away = False
    while True:
        await asyncio.sleep(every)
        try:
            output.record((await look(0))[0])
            away = False
        except BrokerUnavailable as error:
            if not away:
                say(f"agentbus: {error}; waiting for it")
            away = True


async def _paint(look: Look, console: Console, picture: RenderableType, every: float) -> None:
    problem: list[RenderableType] = []
    try:
        # A screen of its own is written over in place. Scrolled text would be erased first, and flicker.
        with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
            while True:
                live.update(Group(*problem, picture), refresh=True)
                await asyncio.sleep(every)
                try:
                    picture, problem = (await look(console.width))[1], []
                except BrokerUnavailable as error:
                    problem = [Text(f"{error}; below is what was seen last", "red")]
    finally:
        # What was seen last stays behind.
        console.print(*problem, picture, sep="\n")
