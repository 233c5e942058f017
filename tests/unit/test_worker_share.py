"""Who does what: every address has one worker, evenly, and only the share of one who goes moves."""

from __future__ import annotations

from collections import Counter

from workers.share import Share

ADDRESSES = [f"agent.a{number}" for number in range(2_000)]


def shares(*living: str, roles: tuple[str, ...] = ("due",)) -> dict[str, Share]:
    made = {worker: Share(worker) for worker in living}
    for share in made.values():
        share.update((worker, roles) for worker in living)
    return made


def owners(made: dict[str, Share]) -> dict[str, str]:
    """Return who does each address, after checking that it is exactly one."""
    found = {}
    for address in ADDRESSES:
        mine = [worker for worker, share in made.items() if share.mine("due", address)]
        assert len(mine) == 1, (address, mine)
        found[address] = mine[0]
    return found


def test_every_address_has_exactly_one_worker_and_the_load_is_even() -> None:
    load = Counter(owners(shares("one", "two", "three", "four")).values())
    # A fair share is 500; four times the standard deviation of a fair draw is 77.
    assert all(abs(number - 500) < 77 for number in load.values()), load


def test_when_a_worker_goes_only_its_share_moves_and_to_all_others() -> None:
    before, after = owners(shares("one", "two", "three", "four")), owners(shares("one", "two", "four"))
    moved = {address for address in ADDRESSES if before[address] != after[address]}
    assert moved == {address for address in ADDRESSES if before[address] == "three"}
    assert {after[address] for address in moved} == {"one", "two", "four"}


def test_workers_share_a_role_only_with_those_that_run_it() -> None:
    share = Share("one")
    share.update([("one", ("due", "dead")), ("two", ("dead",))])
    assert all(share.mine("due", address) for address in ADDRESSES)
    assert not all(share.mine("dead", address) for address in ADDRESSES)


def test_who_knows_of_nobody_does_everything_and_who_is_not_listed_nothing() -> None:
    alone = Share("one")
    assert all(alone.mine("due", address) for address in ADDRESSES)
    alone.update([("two", ("due",))])
    assert not any(alone.mine("due", address) for address in ADDRESSES)
