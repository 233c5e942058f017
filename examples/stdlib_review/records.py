"""What was sent, begun and answered, put down independently of the bus, so that the end can be checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from agentbus.message.policy import Priority
from examples.stdlib_review.messages import TaskResult


@dataclass(frozen=True, slots=True)
class Sent:
    """A task that the bus accepted."""

    name: str
    priority: Priority
    #: Seconds since the epoch, taken before publishing.
    at: float


class Records:
    """Counts by message id. Nothing here asks the bus."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        #: The first result of each message. It may come before `sent` knows of the message.
        self.results: dict[str, TaskResult] = {}
        #: How often an analyst began with each message, as told by the analysts' own pipes.
        self.begun: Counter[str] = Counter()
        #: How many results each message got.
        self.answered: Counter[str] = Counter()
        #: Messages that an analyst had begun and not finished when it was killed.
        self.held_at_kill: set[str] = set()

    def take_result(self, result: TaskResult) -> bool:
        """Put a result down; False when the message had one before."""
        self.answered[result.task_id] += 1
        return self.results.setdefault(result.task_id, result) is result

    @property
    def processed(self) -> int:
        """Messages that were sent and have a result, each counted once."""
        return len(self.sent.keys() & self.results.keys())

    @property
    def lost(self) -> set[str]:
        """Messages that were sent and have no result."""
        return self.sent.keys() - self.results.keys()

    @property
    def unexpected(self) -> set[str]:
        """Messages with a result that nobody sent."""
        return self.results.keys() - self.sent.keys()

    @property
    def redelivered(self) -> int:
        """Deliveries beyond the first of each message."""
        known = self.begun.keys() | self.answered.keys()
        return sum(max(self.begun[key], self.answered[key], 1) - 1 for key in known)

    @property
    def awaiting_redelivery(self) -> set[str]:
        """Messages of a killed analyst that nobody has begun again yet."""
        return {key for key in self.held_at_kill if self.begun[key] < 2}

    @property
    def complete(self) -> bool:
        """Whether everything sent has a result and everything taken away was handed out again."""
        return self.results.keys() >= self.sent.keys() and not self.awaiting_redelivery

    def processed_by(self) -> Counter[str]:
        """Return how many messages each analyst was the first to answer."""
        return Counter(result.analyst for result in self.results.values())

    def redelivered_messages(self) -> list[str]:
        """Return the messages that were handed out more than once."""
        return sorted(key for key in self.sent if max(self.begun[key], self.answered[key]) > 1)

    def problems(self) -> list[str]:
        """Return everything that makes the closing line untrue; empty when it is true."""
        found = []
        if self.lost:
            found.append(f"{len(self.lost)} messages have no result: {_names(self.lost)}")
        if self.unexpected:
            found.append(f"{len(self.unexpected)} results are for nothing sent: {_names(self.unexpected)}")
        if self.awaiting_redelivery:
            found.append(
                f"held by a killed analyst and never begun again: {_names(self.awaiting_redelivery)}"
            )
        if self.processed + len(self.lost) != len(self.sent):
            found.append("sent, processed and lost do not add up")
        return found

    def closing_line(self) -> str:
        """Return the whole run in one line."""
        return (
            f"{len(self.sent)} sent, {self.processed} processed, {len(self.lost)} lost, "
            f"{self.redelivered} redelivered"
        )


def _names(message_ids: set[str]) -> str:
    first = sorted(message_ids)[:5]
    return ", ".join(first) + (" ..." if len(message_ids) > len(first) else "")
