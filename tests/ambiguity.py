"""Publishes whose replies are lost on purpose, counted: the figure on duplicates of a publisher."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from tests.proxy import Proxy
from tests.publishing import is_publish, look_at, open_office


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of it."""

    attempts: int
    #: Replies lost after the request had been sent; each made one publish ambiguous.
    forced: int
    stored: int
    #: Reported as stored, but not on the server.
    lost: int
    #: On the server more often than once.
    doubled: int


async def force_ambiguous_publishes(url: str, address: str, count: int, *, seed: int) -> Tally:
    """Publish ``count`` messages, each through at least one lost reply, and count the entries.

    Half of the connections are cut after the server answered, half as soon as the request was passed on;
    about every third publish is hit twice. Costs some 30 ms a publish; 100,000 of them take an hour.
    """
    dice = random.Random(seed)
    hits = 0

    def hit(way: str) -> bool:
        nonlocal hits
        if hits and chosen == way:
            hits -= 1
            return True
        return False

    chosen, stored = "reply", []
    async with Proxy(url) as proxy, open_office(proxy.url, deadline=30.0) as office:
        await office.publisher.publish(f"{address}.task", "warm")
        proxy.lose_reply = lambda request: is_publish(request) and hit("reply")
        proxy.cut_after_request = lambda request: is_publish(request) and hit("request")
        for number in range(count):
            hits, chosen = 1 + (dice.random() < 1 / 3), dice.choice(("reply", "request"))
            await office.publisher.publish(f"{address}.task", number)
            stored.append(number)
        forced = proxy.cuts
    async with look_at(url, address) as eyes:
        found = Counter(body for body in await eyes.bodies() if body != "warm")
    return Tally(
        attempts=count,
        forced=forced,
        stored=len(stored),
        lost=sum(found[number] == 0 for number in stored),
        doubled=sum(times - 1 for times in found.values()),
    )
