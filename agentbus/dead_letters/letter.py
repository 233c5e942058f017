"""One dead letter, as people see it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, overload

from agentbus.broker.dead_letters import RawLetter
from agentbus.errors import InvalidValue, MalformedMessage
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.message.topics import parse_inbox

#: dead: waits for a person. retrying: failed, and tried again by itself. parked: dead, but the address has as
#: many dead letters as it may; it becomes one when there is room. resolved: somebody took care of it.
Status = Literal["dead", "retrying", "parked", "resolved"]

_ENTRY_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_LARGEST = 2**64 - 1
_DUE = "due:"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that failed for good, or (``retrying``) has failed and is tried again."""

    #: ``<address>:<entry id>``; for a message that waits for its retry ``<address>:due:<name>``.
    id: str
    address: str
    status: Status
    #: None when what was stored is no message; then `raw` shows it.
    message: Message | None
    #: A stable word: exhausted, rejected, crashed, malformed, invalid, no_handler.
    reason: str
    #: The same for people.
    detail: str
    #: The lane it came from and is retried in.
    priority: str
    #: How often it was handed to somebody who failed at it, the last time included.
    attempts: int
    #: The budget it had; None when there was none: its owners died, or nothing could run it.
    max_retries: int | None
    #: at, reason, error, attempt and consumer of the first and the last failure; None when none was noted.
    first_failure: Mapping[str, Any] | None = None
    last_failure: Mapping[str, Any] | None = None
    #: The last consumer that held it.
    owner: str | None = None
    #: By the server's clock; None while it is retried.
    died_at: datetime | None = None
    next_retry_at: datetime | None = None
    resolved_at: datetime | None = None
    resolution: str | None = None
    resolved_by: str | None = None
    #: How often it was handed out again, by people and by policy.
    retries: int = 0
    #: What stands in the entry in place of a valid message.
    raw: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def message_id(self) -> str | None:
        """The message's id, the same in every attempt."""
        return None if self.message is None else self.message.message_id

    @property
    def envelope(self) -> Mapping[str, Any] | None:
        """The whole message as it was sent."""
        return None if self.message is None else self.message.envelope

    @property
    def type(self) -> str | None:
        """The message type."""
        return None if self.message is None else self.message.message_type

    @property
    def sender(self) -> str | None:
        """The agent that sent it."""
        return None if self.message is None else self.message.from_agent

    @property
    def session_id(self) -> str | None:
        """The sender's session."""
        return None if self.message is None else self.message.session_id

    @property
    def retry_count(self) -> int:
        """How often it was tried again before it died: attempts after the first."""
        return max(0, self.attempts - 1)

    def to_record(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "id": self.id, "status": self.status, "address": self.address, "message_id": self.message_id,
            "type": self.type, "sender": self.sender, "session_id": self.session_id,
            "priority": self.priority, "reason": self.reason, "detail": self.detail,
            "attempts": self.attempts, "retry_count": self.retry_count, "max_retries": self.max_retries,
            "retries": self.retries, "first_failure": self.first_failure, "last_failure": self.last_failure,
            "owner": self.owner, "died_at": _text(self.died_at), "next_retry_at": _text(self.next_retry_at),
            "resolved_at": _text(self.resolved_at), "resolution": self.resolution,
            "resolved_by": self.resolved_by,
            "message": None if self.envelope is None else dict(self.envelope),
            "raw": {name: value.decode(errors="replace") for name, value in self.raw.items()},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeadLetterPage(Sequence[DeadLetter]):
    """Some letters, and where the next page begins."""

    letters: tuple[DeadLetter, ...]
    #: Give it as ``after``; None when there are no more.
    next: str | None = None

    @overload
    def __getitem__(self, index: int) -> DeadLetter: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DeadLetter, ...]: ...
    def __getitem__(self, index: int | slice) -> DeadLetter | tuple[DeadLetter, ...]:
        return self.letters[index]

    def __len__(self) -> int:
        return len(self.letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.letters)


@dataclass(frozen=True, slots=True)
class LetterId:
    """The two halves of a letter's id."""

    address: str
    #: An entry id in ``dead``, or a name in ``due``.
    entry: str
    in_due: bool = False

    @classmethod
    def parse(cls, text: str, name: str = "id") -> LetterId:
        """Return the halves; raises `InvalidValue` for anything else."""
        address, colon, entry = text.partition(":") if isinstance(text, str) else ("", "", "")
        in_due = entry.startswith(_DUE) and len(entry) > len(_DUE)
        place = entry.removeprefix(_DUE) if in_due else entry_id(entry)
        if not colon or place is None:
            raise InvalidValue(
                name, f"{text!r} is no dead letter's id; those look like agent.reviewer:1763680000000-0"
            )
        try:
            address = parse_inbox(address)
        except InvalidValue as error:
            raise InvalidValue(name, f"{text!r}: {error.problem}") from None
        return cls(address, place, in_due)


def entry_id(text: str) -> str | None:
    """Return the id of a stream's entry as the server writes it; None for a text that is none."""
    found = _ENTRY_ID.fullmatch(text)
    halves = [int(half) for half in found.groups()] if found else []
    return f"{halves[0]}-{halves[1]}" if halves and max(halves) <= _LARGEST else None


def dead_letter(raw: RawLetter) -> DeadLetter:
    """Return an entry of ``dead`` or ``resolved``; what somebody wrote there by hand is shown as it is."""
    text = {name: value.decode(errors="replace") for name, value in raw.fields.items()}
    state = read_state(raw)
    message, rest = _content(raw)
    letter = text.get("letter", raw.entry_id)
    resolved = "letter" in text
    return DeadLetter(
        id=f"{raw.address}:{letter}",
        address=raw.address,
        status="resolved" if resolved else "dead",
        message=message,
        reason=text.get("reason", ""),
        detail=text.get("detail", ""),
        priority=text.get("lane", ""),
        attempts=_count(text.get("attempts")),
        max_retries=_whole(text.get("max_retries")),
        first_failure=_failure(state, "first_failure"),
        last_failure=_failure(state, "last_failure"),
        owner=text.get("owner") or None,
        died_at=_moment(letter.partition("-")[0]),
        resolved_at=_moment(text.get("resolved_at")),
        resolution=text.get("resolution"),
        resolved_by=text.get("resolved_by") or None,
        retries=_count(state.get("retries")) + _count(state.get("automatic_retries")),
        raw=rest,
    )


def waiting_letter(raw: RawLetter) -> DeadLetter | None:
    """Return a message of ``due`` that has failed before; None for one that is merely delayed."""
    state = read_state(raw)
    parked = state.get("parked")
    if isinstance(parked, list):
        fields = {
            str(name): str(value).encode() for name, value in zip(parked[::2], parked[1::2], strict=False)
        }
        letter = dead_letter(RawLetter(raw.address, "0-0", {**fields, **raw.fields}))
        status: Status = "parked"
    elif _count(state.get("attempt")):
        letter, status = dead_letter(raw), "retrying"
    else:
        return None
    failure = letter.last_failure or {}
    return DeadLetter(
        id=f"{raw.address}:{_DUE}{raw.entry_id}",
        address=raw.address,
        status=status,
        message=letter.message,
        reason=letter.reason or str(failure.get("reason", "")),
        detail=letter.detail or str(failure.get("error", "")),
        priority=str(state.get("lane", "")),
        attempts=letter.attempts or _count(state.get("attempt")),
        max_retries=letter.max_retries,
        first_failure=letter.first_failure,
        last_failure=letter.last_failure,
        owner=letter.owner or _name(failure.get("consumer")),
        next_retry_at=_moment(raw.due_ms),
        retries=letter.retries,
        raw=letter.raw,
    )


def read_state(raw: RawLetter) -> dict[str, Any]:
    """Return the state that the scripts keep; empty for one that was written by hand and is none."""
    try:
        state = json.loads(raw.fields.get("state", b"").decode(errors="replace") or "{}")
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def _content(raw: RawLetter) -> tuple[Message | None, dict[str, bytes]]:
    """Return the message, or what stands in its place."""
    rest = {name.removeprefix("raw:"): value for name, value in raw.fields.items() if name.startswith("raw:")}
    text = raw.fields.get("message")
    if text is None:
        return None, rest
    try:
        return decode(text), rest
    except MalformedMessage:
        return None, {"message": text}


def _failure(state: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    value = state.get(name)
    return value if isinstance(value, dict) else None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, str)) and str(value).isdigit() else None


def _count(value: Any) -> int:
    return _whole(value) or 0


def _moment(milliseconds: int | str | None) -> datetime | None:
    whole = _whole(milliseconds)
    try:
        return None if not whole else datetime.fromtimestamp(whole / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        # An entry id that somebody made up may claim any time.
        return None


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
