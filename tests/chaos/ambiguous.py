"""F3: publishes whose reply is lost, every one of them: nothing may be stored twice, nothing be missing."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable

from agentbus import Bus
from agentbus.broker.embedded import ServerBinary
from agentbus.broker.keys import inbox_keys
from agentbus.broker.scripts import load
from tests.chaos.books import stored_keys
from tests.chaos.figure import Figure, zero_of
from tests.chaos.stage import Stage
from tests.proxy import Proxy

_NAME = "ambiguous"
_LARGEST_GROUP = 256
_AGAIN = 0.25


class Saboteur:
    """Cuts the first sending of every batch, sometimes the second too; then lets one through.

    Works because a publisher has one batch in flight for an address.
    """

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._digest = load("publish").digest.encode()
        self._cut_before = False
        self._loses_reply = True
        self.batches = 0

    def lose_reply(self, request: bytes) -> bool:
        """Whether the server shall execute this request and its reply be lost."""
        if self._digest not in request:
            return False
        if self._cut_before and self._dice.random() >= _AGAIN:
            self._cut_before = False
            return False
        if not self._cut_before:
            self.batches += 1
        self._cut_before = True
        # Half of the connections end at once, whether or not the server has read the request.
        self._loses_reply = self._dice.random() < 0.5
        return self._loses_reply

    def cut_after_request(self, request: bytes) -> bool:
        """Whether the connection of this request, judged just before, is cut without waiting."""
        return self._digest in request and self._cut_before and not self._loses_reply


OpenBus = Callable[[str], Bus]


def run_ambiguous(
    seed: str, messages: int, open_bus: OpenBus = Bus, binary: ServerBinary | None = None
) -> Figure:
    """Publish ``messages`` messages through a proxy that loses the answer to each of them."""
    begun = time.monotonic()
    with Stage(binary) as stage:
        saboteur = Saboteur(random.Random(f"{seed} ambiguous"))
        told, cuts = asyncio.run(_publish_all(stage, saboteur, seed, messages, open_bus))
        with stage.client() as client:
            found = Counter(stored_keys(client, inbox_keys("agentbus", f"agent.{_NAME}")))
        books = stage.books(f"agent.{_NAME}")
    doubled = sum(found.values()) - len(found)
    missing = len(told - found.keys())
    figure = Figure("F3", "Publishes whose answer was lost")
    figure.rows = {
        "messages, each sent at least twice": f"{messages:,}",
        "batches, connections cut": f"{saboteur.batches:,}, {cuts:,}",
        "stored twice": zero_of(doubled, saboteur.batches, "lost answer"),
        "told stored, but missing": zero_of(missing, saboteur.batches, "lost answer"),
        "books": str(books),
    }
    figure.require(doubled == 0, f"{doubled} messages were stored twice")
    figure.require(missing == 0, f"{missing} messages are missing")
    figure.require(len(told) == messages, f"only {len(told)} of {messages} messages were stored")
    figure.seconds = time.monotonic() - begun
    return figure


async def _publish_all(
    stage: Stage, saboteur: Saboteur, seed: str, messages: int, open_bus: OpenBus
) -> tuple[set[str], int]:
    dice = random.Random(f"{seed} groups")
    told: set[str] = set()
    async with Proxy(stage.broker.url) as proxy, open_bus(proxy.url) as bus:
        topic = f"agent.{_NAME}.task"
        # The first one brings the script; from then on a request names it by its digest.
        await bus.publish(topic, {"key": "first-0"})
        proxy.lose_reply, proxy.cut_after_request = saboteur.lose_reply, saboteur.cut_after_request
        number = 0
        while number < messages:
            group = range(number, min(messages, number + dice.randint(1, _LARGEST_GROUP)))
            keys = [f"writer-{index}" for index in group]
            results = await bus.publish_many(topic, [{"key": key} for key in keys])
            told.update(
                key for key, result in zip(keys, results, strict=True) if not isinstance(result, Exception)
            )
            number = group.stop
        return told, proxy.cuts
