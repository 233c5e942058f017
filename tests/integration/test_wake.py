"""Which addresses need a look: announced, claimed by one worker, settled, and never forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from agentbus.broker import keys
from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.wake import Wake
from agentbus.errors import WrongKeyType
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually

HOUR = 3_600_000


class WakeBench:
    """One such set on a real server."""

    def __init__(self, broker: Broker, key: str) -> None:
        self.broker, self.key = broker, key
        self.wake = Wake(broker, key)

    async def now(self) -> int:
        seconds, micros = await self.broker.execute("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def score(self, address: str) -> int | None:
        score = await self.broker.execute("ZSCORE", self.key, address)
        return None if score is None else int(float(score))


@pytest.fixture(params=[keys.wake, keys.ticking], ids=["wake", "ticking"])
async def bench(
    request: pytest.FixtureRequest, broker: BrokerForTests, unique: Callable[[str], str]
) -> AsyncIterator[WakeBench]:
    opened = Broker(ConnectionSettings(broker.url))
    key = request.param(unique("wake"))
    yield WakeBench(opened, key)
    await opened.execute("DEL", key)
    await opened.close()


async def test_the_earliest_announcement_counts(bench: WakeBench) -> None:
    await bench.wake.announce("a", 5_000)
    await bench.wake.announce("a", 3_000)
    assert await bench.score("a") == 3_000


async def test_a_later_announcement_still_changes_the_score(bench: WakeBench) -> None:
    """Else a claimer that looked before it was written would take the address off the set."""
    await bench.wake.announce("a", 3_000)
    await bench.wake.announce("a", 3_000)
    assert await bench.score("a") == 2_999
    await bench.wake.announce("a", 9_000)
    assert await bench.score("a") == 2_998


async def test_what_is_not_due_is_not_claimed_but_its_time_is_told(bench: WakeBench) -> None:
    later = await bench.now() + 60_000
    await bench.wake.announce("a", later)
    found = await bench.wake.claim(10)
    assert found.claims == ()
    assert found.next_ms == later
    assert 0 < found.pause <= 60


async def test_nothing_announced_is_nothing_to_wait_for(bench: WakeBench) -> None:
    found = await bench.wake.claim(10)
    assert (found.claims, found.next_ms, found.pause) == ((), None, float("inf"))


async def test_a_claim_is_handed_out_once_and_says_when_it_was_due(bench: WakeBench) -> None:
    await bench.wake.announce_all([("a", 1_000), ("b", 2_000), ("c", 3_000)])
    first = await bench.wake.claim(2)
    second = await bench.wake.claim(10)
    assert [(claim.address, claim.due_ms) for claim in first.claims] == [("a", 1_000), ("b", 2_000)]
    assert first.next_ms == 3_000
    assert [claim.address for claim in second.claims] == ["c"]
    assert (await bench.wake.claim(10)).claims == ()


async def test_a_settled_claim_with_nothing_to_come_takes_the_address_off(bench: WakeBench) -> None:
    await bench.wake.announce("a", 1_000)
    (claim,) = (await bench.wake.claim(10)).claims
    assert await bench.wake.settle(claim, None)
    assert await bench.score("a") is None


async def test_a_settled_claim_moves_to_the_next_time_however_late(bench: WakeBench) -> None:
    await bench.wake.announce("a", 1_000)
    (claim,) = (await bench.wake.claim(10)).claims
    assert await bench.wake.settle(claim, claim.score + HOUR)
    assert await bench.score("a") == claim.score + HOUR


@pytest.mark.parametrize("sooner", [True, False])
async def test_an_announcement_during_a_claim_survives_its_settlement(bench: WakeBench, sooner: bool) -> None:
    await bench.wake.announce("a", 1_000)
    (claim,) = (await bench.wake.claim(10)).claims
    announced = 2_000 if sooner else claim.score + HOUR
    await bench.wake.announce("a", announced)
    assert not await bench.wake.settle(claim, None)
    left = await bench.score("a")
    assert left is not None
    assert left <= min(announced, claim.score)
    assert not await bench.wake.settle(claim, claim.score + HOUR)
    assert await bench.score("a") == left


async def test_the_next_time_may_make_an_announced_look_earlier(bench: WakeBench) -> None:
    await bench.wake.announce("a", 1_000)
    (claim,) = (await bench.wake.claim(10)).claims
    await bench.wake.announce("a", claim.score + HOUR)
    await bench.wake.settle(claim, 5_000)
    assert await bench.score("a") == 5_000


async def test_settling_after_the_set_was_emptied_puts_the_next_look_back(bench: WakeBench) -> None:
    await bench.wake.announce("a", 1_000)
    (claim,) = (await bench.wake.claim(10)).claims
    await bench.broker.execute("DEL", bench.key)
    await bench.wake.settle(claim, 5_000)
    assert await bench.score("a") == 5_000


async def test_a_claim_whose_owner_died_comes_back(bench: WakeBench) -> None:
    await bench.wake.announce("a", 1_000)
    (lost,) = (await bench.wake.claim(10, claim_ms=50)).claims

    async def claimed_again() -> bool:
        return any(claim.address == "a" for claim in (await bench.wake.claim(10)).claims)

    await eventually(claimed_again, 5)
    assert not await bench.wake.settle(lost, None)
    assert await bench.score("a") is not None


async def test_scores_written_by_hand_do_no_harm(bench: WakeBench) -> None:
    await bench.broker.execute("ZADD", bench.key, "-inf", "a", 1.5, "b", "+inf", "c")
    found = await bench.wake.claim(10)
    assert [claim.address for claim in found.claims] == ["a", "b"]
    for claim in found.claims:
        await bench.wake.settle(claim, None)
    await bench.wake.announce("c", 7_000)
    assert await bench.score("c") == 7_000
    await bench.wake.withdraw("c")
    assert await bench.score("c") is None


async def test_a_key_of_another_type_is_an_error(bench: WakeBench) -> None:
    await bench.broker.execute("SET", bench.key, "x")
    with pytest.raises(WrongKeyType):
        await bench.wake.announce_all([("a", 1_000)])
    with pytest.raises(WrongKeyType):
        await bench.wake.claim(10)
