"""The checker itself: every loss, duplicate and lie that is planted must be found, and nothing else."""

from __future__ import annotations

from typing import Any

from tests.chaos.checker import (
    BROKER_RESTART,
    BY_HAND,
    DEFERRAL,
    LEASE_LOST,
    OWNER_DEATH,
    PUBLISHER_REPEAT,
    RETRY,
    check,
)
from tests.chaos.history import Record

PUBLISHER, AGENT, OTHER_AGENT, SUCCESSOR = 10, 20, 21, 11


class Planted:
    """Builds a history in the order in which it is told."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, event: str, pid: int, key: str = "", **values: Any) -> Planted:
        """Add one record, a second after the last."""
        if key and event in ("stored", "begin", "end"):
            values.setdefault("message_id", f"id of {key}")
        if event in ("begin", "end"):
            values.setdefault("attempt", 1)
        self.records.append(Record(event, float(len(self.records)), pid, key, **values))
        return self

    def published(self, *keys: str, **values: Any) -> Planted:
        """Add messages that were stored."""
        for key in keys:
            self.add("attempt", PUBLISHER, key).add("stored", PUBLISHER, key, **values)
        return self

    def handled(self, *keys: str, pid: int = AGENT, **values: Any) -> Planted:
        """Add deliveries that ended well."""
        for key in keys:
            self.add("begin", pid, key, **values)
            values.pop("redelivered", None)
            self.add("end", pid, key, note="processed", **values)
        return self


def test_a_clean_history_has_no_problems() -> None:
    verdict = check(Planted().published("w-0", "w-1").handled("w-0", "w-1").records)
    assert verdict.problems == []
    assert (verdict.attempts, verdict.stored, verdict.handled) == (2, 2, 2)
    assert not verdict.duplicates


def test_a_stored_message_that_nobody_handled_is_lost() -> None:
    verdict = check(Planted().published("w-0", "w-1", "w-2").handled("w-0", "w-2").records)
    assert verdict.lost == ["w-1"]
    assert verdict.problems


def test_a_delivery_that_began_and_did_not_end_well_does_not_count_as_handled() -> None:
    planted = Planted().published("w-0").add("begin", AGENT, "w-0").add("end", AGENT, "w-0", note="cancelled")
    assert check(planted.records).lost == ["w-0"]


def test_dead_letters_and_queued_messages_are_not_lost() -> None:
    verdict = check(Planted().published("w-0", "w-1").records, dead=["w-0"], queued=["w-1"])
    assert verdict.problems == []
    assert (verdict.dead, verdict.queued) == (1, 1)


def test_losses_are_told_apart_by_their_place_among_the_messages_of_a_writer() -> None:
    keys = [f"w-{number}" for number in range(12)]
    # Numbers are compared as numbers: w-10 and w-11 come last.
    kept = [key for key in keys if key not in ("w-0", "w-1", "w-5", "w-9", "w-10", "w-11")]
    verdict = check(Planted().published(*keys).handled(*kept).records)
    assert verdict.lost_where == {"prefix": 2, "middle": 1, "postfix": 3}


def killed_after(planted: Planted, *handled: str) -> Planted:
    """Kill the server, bring it back and handle some messages, later than what was handed out before."""
    planted.add("broker_killed", 0).add("broker_started", 0)
    return planted.add("begin", AGENT, "old-0").handled(*handled)


def test_the_last_messages_before_a_kill_are_unwritten_where_the_server_writes_late() -> None:
    records = killed_after(Planted().published("w-0", "w-1"), "w-0").records
    late, at_once = check(records, writes_late=True), check(records)
    assert (late.unwritten, late.lost) == (["w-1"], [])
    assert (at_once.unwritten, at_once.lost) == ([], ["w-1"])


def test_a_message_that_is_older_than_one_that_came_through_the_kill_is_lost() -> None:
    planted = killed_after(Planted().published("w-0", "w-1"), "w-1")
    assert check(planted.records, writes_late=True).lost == ["w-0"]


def test_a_message_stored_long_before_the_kill_is_lost() -> None:
    planted = Planted().published("w-0").handled("w-1", "w-2")
    assert check(killed_after(planted).records, writes_late=True).lost == ["w-0"]


def test_a_message_that_vanishes_without_a_kill_is_lost() -> None:
    assert check(Planted().published("w-0").records, writes_late=True).lost == ["w-0"]


def test_a_second_delivery_has_no_mark_where_the_server_forgot_the_first() -> None:
    planted = Planted().published("w-0").handled("w-0")
    records = planted.add("broker_killed", 0).handled("w-0", pid=OTHER_AGENT).records
    assert check(records).unmarked == ["w-0"]
    late = check(records, writes_late=True)
    assert (late.problems, late.forgotten, late.duplicates) == ([], 1, {BROKER_RESTART: 1})


def test_what_was_handed_out_before_a_kill_and_begun_after_it_is_forgotten_too() -> None:
    planted = Planted().published("w-0").add("broker_killed", 0)
    records = planted.handled("w-0").handled("w-0", pid=OTHER_AGENT).records
    assert check(records).unattributed == ["w-0 (delivered twice)"]
    assert check(records, writes_late=True).problems == []


def test_a_second_delivery_long_after_a_kill_needs_its_mark() -> None:
    planted = Planted().published("w-0").add("broker_killed", 0).published("w-1")
    records = planted.handled("w-0").handled("w-0", pid=OTHER_AGENT).records
    assert check(records, writes_late=True).unattributed == ["w-0 (delivered twice)"]


def test_a_writer_of_whom_nothing_is_left_lost_a_prefix() -> None:
    planted = Planted().published("w-0", "w-1", "v-0").handled("v-0")
    assert check(planted.records).lost_where == {"prefix": 2}


def test_a_message_that_nobody_published_is_unexpected() -> None:
    verdict = check(Planted().published("w-0").handled("w-0", "ghost-7").records)
    assert verdict.unexpected == ["ghost-7"]
    assert verdict.problems


def test_a_message_that_only_began_is_unexpected_too() -> None:
    assert check(Planted().add("begin", AGENT, "ghost-7").records).unexpected == ["ghost-7"]


def test_an_uncertain_message_that_was_handled_is_recovered_and_one_that_was_not_is_no_loss() -> None:
    planted = Planted()
    for key in ("w-0", "w-1"):
        planted.add("attempt", PUBLISHER, key).add("uncertain", PUBLISHER, key)
    verdict = check(planted.handled("w-0").records)
    assert (verdict.uncertain, verdict.recovered, verdict.lost) == (2, 1, [])


def test_a_second_delivery_without_a_cause_is_found() -> None:
    planted = Planted().published("w-0").handled("w-0").handled("w-0", pid=OTHER_AGENT, redelivered=True)
    assert check(planted.records).unattributed == ["w-0 (delivered twice)"]


def test_a_second_delivery_after_the_death_of_its_owner_has_that_cause() -> None:
    planted = Planted().published("w-0").add("begin", AGENT, "w-0").add("killed", AGENT)
    verdict = check(planted.handled("w-0", pid=OTHER_AGENT, redelivered=True).records)
    assert verdict.duplicates == {OWNER_DEATH: 1}
    assert verdict.problems == []


def test_the_death_of_another_process_explains_nothing() -> None:
    planted = Planted().published("w-0").handled("w-0").add("killed", OTHER_AGENT)
    assert check(planted.handled("w-0", pid=SUCCESSOR, redelivered=True).records).unattributed


def test_a_death_after_the_second_delivery_began_explains_nothing() -> None:
    planted = Planted().published("w-0").add("begin", AGENT, "w-0")
    planted.add("begin", OTHER_AGENT, "w-0", redelivered=True).add("killed", AGENT)
    assert check(planted.records).unattributed


def test_a_redelivery_that_claims_to_be_the_first_is_a_lie() -> None:
    planted = Planted().published("w-0").add("begin", AGENT, "w-0").add("killed", AGENT)
    verdict = check(planted.handled("w-0", pid=OTHER_AGENT).records)
    assert verdict.unmarked == ["w-0"]
    assert verdict.problems


def test_a_retry_needs_a_failure_and_the_next_attempt() -> None:
    def failed() -> Planted:
        planted = Planted().published("w-0").add("begin", AGENT, "w-0")
        return planted.add("end", AGENT, "w-0", note="failed")

    second = failed().handled("w-0", attempt=2, redelivered=True)
    assert check(second.records).duplicates == {RETRY: 1}
    same_attempt = failed().handled("w-0", attempt=1, redelivered=True)
    assert check(same_attempt.records).unattributed
    without_failure = Planted().published("w-0").handled("w-0").handled("w-0", attempt=2, redelivered=True)
    assert check(without_failure.records).unattributed


def test_a_deferral_explains_one_more_delivery_and_not_two() -> None:
    planted = Planted().published("w-0").add("begin", AGENT, "w-0").add("end", AGENT, "w-0", note="deferred")
    verdict = check(planted.handled("w-0").handled("w-0", pid=OTHER_AGENT).records)
    assert verdict.duplicates == {DEFERRAL: 1}
    assert verdict.unattributed == ["w-0 (delivered twice)"]


def test_a_deferral_whose_settlement_died_with_its_owner_counts_as_that_death() -> None:
    planted = Planted().published("w-0").add("begin", AGENT, "w-0").add("end", AGENT, "w-0", note="deferred")
    planted.add("killed", AGENT)
    marked = check(planted.records + _later(planted, redelivered=True))
    assert marked.duplicates == {OWNER_DEATH: 1}
    unmarked = check(planted.records + _later(planted, redelivered=False))
    assert unmarked.duplicates == {DEFERRAL: 1}
    assert marked.problems == unmarked.problems == []


def _later(planted: Planted, *, redelivered: bool) -> list[Record]:
    at = float(len(planted.records))
    message_id = "id of w-0"
    return [
        Record("begin", at, OTHER_AGENT, "w-0", message_id, 1, redelivered),
        Record("end", at + 1, OTHER_AGENT, "w-0", message_id, 1, note="processed"),
    ]


def test_a_lost_lease_and_a_freeze_explain_a_redelivery() -> None:
    for event in ("fenced", "frozen"):
        planted = Planted().published("w-0").add("begin", AGENT, "w-0").add(event, AGENT)
        verdict = check(planted.handled("w-0", pid=OTHER_AGENT, redelivered=True).records)
        assert verdict.duplicates == {LEASE_LOST: 1}


def test_a_restart_of_the_broker_between_two_deliveries_is_their_cause() -> None:
    planted = Planted().published("w-0").handled("w-0").add("broker_killed", 1)
    assert check(planted.handled("w-0", redelivered=True).records).duplicates == {BROKER_RESTART: 1}


def test_a_successor_of_a_killed_publisher_may_repeat_what_had_no_answer() -> None:
    planted = Planted().add("attempt", PUBLISHER, "w-0").add("killed", PUBLISHER)
    planted.add("attempt", SUCCESSOR, "w-0").add("stored", SUCCESSOR, "w-0", message_id="second")
    verdict = check(planted.handled("w-0", message_id="first").handled("w-0", message_id="second").records)
    assert verdict.duplicates == {PUBLISHER_REPEAT: 1}
    assert verdict.problems == []


def test_a_message_stored_twice_by_a_publisher_that_lives_is_found() -> None:
    planted = Planted().published("w-0")
    verdict = check(planted.handled("w-0", message_id="first").handled("w-0", message_id="second").records)
    assert verdict.unattributed == ["w-0 (published twice)"]


def test_one_open_attempt_explains_one_repeat_and_not_two() -> None:
    planted = Planted().add("attempt", PUBLISHER, "w-0").add("attempt", SUCCESSOR, "w-0")
    planted.add("stored", SUCCESSOR, "w-0", message_id="second")
    for message_id in ("first", "second", "third"):
        planted.handled("w-0", message_id=message_id)
    verdict = check(planted.records)
    assert verdict.duplicates == {PUBLISHER_REPEAT: 1}
    assert verdict.unattributed == ["w-0 (published twice)"]


def test_with_an_idempotency_key_no_repeat_is_explained() -> None:
    planted = Planted().add("attempt", PUBLISHER, "w-0", idempotent=True).add("killed", PUBLISHER)
    planted.add("attempt", SUCCESSOR, "w-0", idempotent=True).add("stored", SUCCESSOR, "w-0")
    verdict = check(planted.handled("w-0", message_id="first").handled("w-0", message_id="second").records)
    assert verdict.unattributed == ["w-0 (published twice)"]


def _handed_out(planted: Planted, person: int = 30) -> Planted:
    return planted.add("asked", person, "w-0", message_id="id of w-0", letter="a:1-1", note="retry")


def test_a_dead_letter_that_a_person_handed_out_explains_one_delivery_and_not_two() -> None:
    planted = Planted().published("w-0").add("begin", AGENT, "w-0").add("end", AGENT, "w-0", note="failed")
    _handed_out(planted).handled("w-0")
    verdict = check(planted.records)
    assert (verdict.duplicates, verdict.problems) == ({BY_HAND: 1}, [])
    assert check(planted.handled("w-0").records).unattributed == ["w-0 (delivered twice)"]


def test_whoever_was_told_that_another_was_faster_explains_nothing() -> None:
    planted = Planted().published("w-0").add("begin", AGENT, "w-0").add("end", AGENT, "w-0", note="failed")
    _handed_out(planted).add("told", 30, "w-0", message_id="id of w-0", letter="a:1-1", note="gone resolved")
    assert check(planted.handled("w-0").records).unattributed == ["w-0 (delivered twice)"]


def test_what_ended_otherwise_by_the_books_is_not_lost() -> None:
    verdict = check(Planted().published("w-0", "w-1").handled("w-1").records, ended=["w-0", "w-1"])
    assert (verdict.problems, verdict.ended) == ([], 1)


def test_one_id_on_two_messages_is_found() -> None:
    planted = Planted().published("w-0", "w-1", message_id="same")
    verdict = check(planted.handled("w-0", message_id="same").handled("w-1", message_id="same").records)
    assert verdict.shared_ids == ["same (w-0, w-1)"]


def test_verdicts_of_several_runs_add_up() -> None:
    verdict = check(Planted().published("w-0", "w-1").handled("w-0").records)
    verdict.add(check(Planted().published("v-0", "v-1").handled("v-1").handled("v-1").records))
    assert (verdict.stored, verdict.handled) == (4, 2)
    assert verdict.lost == ["w-1", "v-0"]
    assert verdict.lost_where == {"postfix": 1, "prefix": 1}
    assert len(verdict.unattributed) == 1
