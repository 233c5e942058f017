"""What travels between the coordinator and the analysts."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The pool that all analysts share.
TASK_TOPIC = "agent.analysts.file"
RESULT_TOPIC = "agent.coordinator.result"


@dataclass(frozen=True, slots=True)
class FileTask:
    """Review this file."""

    path: str
    #: The path as people want to read it: relative to the library's folder.
    name: str


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something in a file that deserves a second look."""

    kind: str
    line: int
    detail: str


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """The measures of one function."""

    name: str
    line: int
    #: Lines, from ``def`` to the last one.
    length: int
    #: Cyclomatic: the number of independent ways through it.
    complexity: int
    #: The deepest block inside another.
    nesting: int
    #: 100 is easy to change, 0 is hard.
    maintainability: float
    #: Equal for functions that differ in names and constants only; empty for small ones.
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class FileReview:
    """What there is to say about one file."""

    name: str
    lines: int
    functions: list[FunctionFacts] = field(default_factory=list)
    oddities: list[Oddity] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A review, and by whom and when it was made. Times are seconds since the epoch."""

    #: The message that asked for it: the coordinator counts by this, so that a repeat is seen as one.
    task_id: str
    analyst: str
    started_at: float
    finished_at: float
    review: FileReview
