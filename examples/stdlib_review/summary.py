"""The end of the story: what was found, who did it, and how long messages waited."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table

from agentbus.message.policy import PRIORITIES
from examples.stdlib_review.messages import FileReview, FunctionFacts
from examples.stdlib_review.records import Records


def tables(records: Records) -> Iterator[Table]:
    """Yield the tables of the summary that have something to tell."""
    reviews = [result.review for result in records.results.values()]
    everything = (
        _functions_table(reviews),
        _copies_table(reviews),
        _oddities_table(reviews),
        _analysts_table(records),
        _waits_table(records),
    )
    yield from (table for table in everything if table.row_count)


def longest_functions(reviews: Iterable[FileReview], count: int) -> list[tuple[str, FunctionFacts]]:
    """Return file name and facts of the longest functions, the longest first."""
    everything = [(review.name, facts) for review in reviews for facts in review.functions]
    return sorted(everything, key=lambda each: (-each[1].length, each[0], each[1].line))[:count]


def copied_functions(reviews: Iterable[FileReview], count: int) -> list[list[tuple[str, FunctionFacts]]]:
    """Return the functions that stand in several files, the ones with most lines to save first."""
    places: dict[str, list[tuple[str, FunctionFacts]]] = defaultdict(list)
    for review in reviews:
        for facts in review.functions:
            if facts.fingerprint:
                places[facts.fingerprint].append((review.name, facts))
    copied = [sorted(found, key=lambda each: each[0]) for found in places.values() if _in_several(found)]
    return sorted(copied, key=lambda found: (-sum(facts.length for _, facts in found[1:]), found[0][0]))[
        :count
    ]


def _in_several(found: Sequence[tuple[str, FunctionFacts]]) -> bool:
    return len({name for name, _ in found}) > 1


def oddities_by_kind(reviews: Iterable[FileReview]) -> Counter[str]:
    """Return how many oddities of each kind there are."""
    return Counter(oddity.kind for review in reviews for oddity in review.oddities)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of all do not exceed; NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _functions_table(reviews: Sequence[FileReview]) -> Table:
    table = _table("Ten longest functions", "lines", "complexity", "depth", "maintainable", "=function")
    for name, facts in longest_functions(reviews, 10):
        table.add_row(
            str(facts.length),
            str(facts.complexity),
            str(facts.nesting),
            f"{facts.maintainability:.0f} %",
            f"{facts.name} in {name}:{facts.line}",
        )
    return table


def _copies_table(reviews: Sequence[FileReview]) -> Table:
    table = _table("Same function in several files", "lines", "places", "=function")
    for found in copied_functions(reviews, 5):
        facts = found[0][1]
        files = dict.fromkeys(name for name, _ in found)
        table.add_row(str(facts.length), str(len(found)), f"{facts.name} in {', '.join(files)}")
    return table


def _oddities_table(reviews: Sequence[FileReview]) -> Table:
    table = _table("Oddities", "count", "=kind", "=for example")
    examples: dict[str, str] = {}
    for review in sorted(reviews, key=lambda review: review.name):
        for oddity in review.oddities:
            examples.setdefault(oddity.kind, f"{review.name}:{oddity.line}: {oddity.detail}")
    for kind, count in oddities_by_kind(reviews).most_common():
        table.add_row(str(count), kind, examples[kind])
    return table


def _analysts_table(records: Records) -> Table:
    table = _table("Analysts", "messages", "lines", "busy", "=analyst")
    lines: Counter[str] = Counter()
    busy: Counter[str] = Counter()
    for result in records.results.values():
        lines[result.analyst] += result.review.lines
        busy[result.analyst] += round(1000 * (result.finished_at - result.started_at))
    for analyst, count in sorted(records.processed_by().items()):
        table.add_row(str(count), f"{lines[analyst]:,}", f"{busy[analyst] / 1000:.1f} s", analyst)
    return table


def _waits_table(records: Records) -> Table:
    table = _table(
        "From publishing to start and end",
        "messages",
        "start p50",
        "start p99",
        "end p50",
        "end p99",
        "=priority",
    )
    for level in PRIORITIES:
        starts, ends = _waits(records, level)
        if starts:
            figures = (
                percentile(starts, 0.5),
                percentile(starts, 0.99),
                percentile(ends, 0.5),
                percentile(ends, 0.99),
            )
            table.add_row(str(len(starts)), *(f"{seconds:.2f} s" for seconds in figures), level)
    return table


def _waits(records: Records, level: str) -> tuple[list[float], list[float]]:
    """Return the seconds from publishing to start and to end of all messages of a priority."""
    starts, ends = [], []
    for task_id, sent in records.sent.items():
        result = records.results.get(task_id)
        if sent.priority == level and result is not None:
            starts.append(result.started_at - sent.at)
            ends.append(result.finished_at - sent.at)
    return starts, ends


def _table(title: str, *columns: str) -> Table:
    """Return an empty table; columns are figures, or text when they begin with ``=``.

    The last column gives way where there is little room, so it should hold text.
    """
    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, header_style="dim", expand=True
    )
    for column in columns:
        table.add_column(
            column.lstrip("="),
            justify="left" if column.startswith("=") else "right",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if column is columns[-1] else None,
        )
    return table
