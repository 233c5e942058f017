"""The judge of named recipients: each planted fault is found, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agentbus import Receipt
from tests.chaos.history import Record
from tests.chaos.judges import Finding
from tests.chaos.mail import Mail, Writer
from tests.chaos.mail_judge import judge_mail

#: The server's time at the beginning of the history.
WALL = 1_000_000.0
SENDER, FIRST, SECOND = 10, 20, 21
BOUND = {"channel.news.task": "auditor", "agent.ada.task": "auditor"}
WRITERS = {
    "all": Writer("several", ("ada", "ben"), "channel.team", idempotent=True, bound=BOUND),
    "one": Writer("direct", ("ben",), idempotent=True),
    "news": Writer("topics", tuple(BOUND), bound=BOUND),
}


def line(event: str, at: float, key: str, agent: str, pid: int = FIRST, **values: Any) -> Record:
    """A line about a message, whose id is ``m-<key>``."""
    return Record(event, at, pid, key, f"m-{key}", agent=agent, **values)


def handled(at: float, key: str, agent: str, pid: int = FIRST, **begin: Any) -> tuple[Record, Record]:
    ended = line("end", at + 0.1, key, agent, pid, note="processed", attempt=begin.get("attempt", 0))
    return line("begin", at, key, agent, pid, **begin), ended


def sent(key: str, *agents: str) -> tuple[Record, ...]:
    """What the sender wrote: the message and whoever it named is told to be stored."""
    told = (line("stored", 0.2, key, agent, SENDER) for agent in ("", *agents))
    return (Record("attempt", 0.1, SENDER, key), *told)


def receipt(agent: str, *times: float | None, refused: str | None = None) -> Receipt:
    """A row by the seconds at which it was stored, delivered, read and processed."""
    padded = (*times, None, None, None, None)[:4]
    stored, delivered, read, processed = (
        None if at is None else datetime.fromtimestamp(WALL + at, UTC) for at in padded
    )
    return Receipt(agent, stored, delivered, read, processed, refused)


#: To two agents: one owner dies, one recipient rejects. A direct message fails once. Two topics in turn, both
#: bound; of the last one the sender died before it heard.
GOOD: tuple[Record, ...] = (
    *sent("all-0", "ada", "ben"),
    line("begin", 1.0, "all-0", "ada"),
    Record("killed", 1.05, FIRST),
    *handled(4.0, "all-0", "ada", SECOND, redelivered=True),
    *handled(1.2, "all-0", "auditor", SECOND),
    line("begin", 1.4, "all-0", "ben", SECOND),
    line("end", 1.5, "all-0", "ben", SECOND, note="rejected"),
    *sent("one-0", "ben"),
    line("begin", 2.0, "one-0", "ben", SECOND, attempt=1),
    line("end", 2.1, "one-0", "ben", SECOND, note="failed", attempt=1),
    *handled(2.5, "one-0", "ben", SECOND, attempt=2, redelivered=True),
    *sent("news-0"),
    *handled(3.0, "news-0", "auditor", SECOND),
    Record("attempt", 0.1, SENDER, "news-1"),
    Record("killed", 0.3, SENDER),
    *handled(3.2, "news-1", "ada", SECOND),
    *handled(3.4, "news-1", "auditor", SECOND),
)
MAIL = Mail(
    receipts={
        "m-all-0": (
            receipt("ada", 0.15, 0.9, 1.01, 4.2),
            receipt("ben", 0.15, 1.3, 1.41, refused="dead: rejected"),
        ),
        "m-one-0": (receipt("ben", 0.15, 1.9, 2.01, 2.7),),
    },
    dead={"ada": frozenset(), "ben": frozenset(("all-0",)), "auditor": frozenset()},
    logs={"channel.team": ("all-0",), "channel.news": ("news-0",), "dm:ben:one": ("one-0",)},
    unread={("dm:ben:one", "ben"): 0},
    wall=WALL,
)


def judge(*more: Record, without: Sequence[Record] = (), mail: Mail = MAIL) -> Finding:
    records = [record for record in GOOD if record not in without] + list(more)
    return judge_mail(mail, WRITERS, sorted(records, key=lambda record: record.at))


def lines_of(key: str, agent: str) -> list[Record]:
    return [record for record in GOOD if (record.key, record.agent) == (key, agent) and record.pid != SENDER]


def with_receipt(message_id: str, row: Receipt) -> Mail:
    rows = tuple(row if each.agent == row.agent else each for each in MAIL.receipts[message_id])
    return replace(MAIL, receipts={**MAIL.receipts, message_id: rows})


def with_log(name: str, *keys: str) -> Mail:
    return replace(MAIL, logs={**MAIL.logs, name: keys})


def test_what_is_handled_or_dead_with_true_receipts_is_fine() -> None:
    finding = judge()
    assert finding.problems == []
    assert (finding.counts["promised to somebody"], finding.counts["copies due"]) == (3, 3)
    assert (finding.counts["death of the owner"], finding.counts["retry after a failure"]) == (1, 1)


def test_a_copy_that_was_told_stored_and_never_came_is_found() -> None:
    mail = with_receipt("m-one-0", receipt("ben", refused="expired"))
    assert judge(without=lines_of("one-0", "ben"), mail=mail).problems == ["1 lost: one-0 for ben"]


@pytest.mark.parametrize("key", ["all-0", "news-0", "news-1"])
def test_a_copy_for_a_binding_that_nobody_made_is_found(key: str) -> None:
    """Also where the sender had died: its message is there."""
    assert judge(without=lines_of(key, "auditor")).problems == [f"1 copies lost: {key} for auditor"]


def test_a_copy_is_not_missed_where_the_message_itself_was_never_stored() -> None:
    neither = [*lines_of("news-1", "ada"), *lines_of("news-1", "auditor")]
    assert judge(without=neither).problems == []


def test_a_message_missing_from_its_log_or_there_twice_is_found() -> None:
    assert judge(mail=with_log("dm:ben:one")).problems == ["1 missing from their log: one-0"]
    assert judge(mail=with_log("channel.team", "all-0", "all-0")).problems == ["1 in a log twice: all-0"]
    assert judge(mail=with_log("channel.team", "all-0", "one-0")).problems == ["1 unexpected: one-0"]


def test_a_message_for_somebody_else_or_of_nobody_is_found() -> None:
    assert judge(*handled(5.0, "one-0", "ada")).problems == ["1 unexpected: one-0 for ada"]
    assert judge(*handled(5.0, "one-9", "ben")).problems == ["1 unexpected: one-9 for ben"]


def test_one_message_under_two_ids_is_found() -> None:
    other = [replace(each, message_id="m-other") for each in handled(5.0, "one-0", "ben")]
    assert judge(*other).problems == ["1 stored twice: one-0 for ben"]


def test_a_second_delivery_without_a_cause_is_found() -> None:
    twice = judge(*handled(6.0, "one-0", "ben", redelivered=True))
    assert twice.problems == ["1 without a cause: one-0 twice at ben"]


def test_a_redelivery_that_claims_to_be_the_first_is_found() -> None:
    marked = [each for each in GOOD if each.redelivered and each.agent == "ada"]
    finding = judge(replace(marked[0], redelivered=False), without=marked)
    assert finding.problems == ["1 not marked as redelivered: all-0 at ada"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (receipt("ben", 0.15, 1.9, 1.9, 2.7), "read 0.100 s before a handler did"),
        (receipt("ben", 0.15, 1.9, 2.01, 2.3), "processed 0.300 s before a handler did"),
        (receipt("ben", 0.15, 2.05, 2.01, 2.7), "read before delivered"),
        (receipt("ben", 0.15, 1.9, 2.01, refused="expired"), "refused (expired), and processed"),
    ],
)
def test_a_receipt_that_says_more_than_happened_is_found(row: Receipt, what: str) -> None:
    finding = judge(mail=with_receipt("m-one-0", row))
    assert finding.problems == [f"1 receipts that say more than happened: one-0 at ben: {what}"]


def test_a_receipt_of_what_no_handler_did_is_found() -> None:
    ended = [record for record in lines_of("one-0", "ben") if record.note == "processed"]
    mail = replace(MAIL, dead={**MAIL.dead, "ben": frozenset(("all-0", "one-0"))})
    finding = judge(without=ended, mail=mail)
    assert finding.problems == [
        "1 receipts that say more than happened: one-0 at ben: processed, and no handler did"
    ]


@pytest.mark.parametrize("times", [(), (0.15,), (0.15, 1.9, 2.01)])
def test_a_receipt_that_stays_behind_what_happened_is_found(times: tuple[float, ...]) -> None:
    finding = judge(mail=with_receipt("m-one-0", receipt("ben", *times)))
    assert [problem.partition(":")[0] for problem in finding.problems] == ["1 receipts that say less"]


def test_a_message_without_receipts_is_found() -> None:
    finding = judge(mail=replace(MAIL, receipts={"m-one-0": MAIL.receipts["m-one-0"]}))
    assert finding.problems == ["2 receipts missing: all-0 for ada, all-0 for ben"]


def test_a_recipient_that_was_told_to_have_refused_and_had_it_is_found() -> None:
    told = line("refused", 0.3, "one-0", "ben", SENDER, note="AddressFull: agent.ben is full")
    assert judge(told).problems == ["1 refused, and handled all the same: one-0 for ben"]


def test_a_conversation_that_is_left_unread_is_found() -> None:
    finding = judge(mail=replace(MAIL, unread={("dm:ben:one", "ben"): 2}))
    assert finding.problems == ["1 left unread: 2 by ben in dm:ben:one"]
