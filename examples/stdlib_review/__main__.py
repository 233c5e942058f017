"""Run the review: ``python -m examples.stdlib_review``. Exit code 0 when the last line is true."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from agentbus import AgentBusError
from examples.stdlib_review.coordinator import Coordinator, ReviewFailed
from examples.stdlib_review.corpus import library_folder, library_tasks
from examples.stdlib_review.display import BarDisplay, Display, LineDisplay
from examples.stdlib_review.records import Records
from examples.stdlib_review.summary import tables


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    # Rich takes a pipe for a terminal of 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 120)
    tasks = library_tasks(options.library, options.limit)
    console.print(f"{len(tasks)} files of {options.library}", highlight=False, soft_wrap=True)
    display: Display = (LineDisplay if options.plain else BarDisplay)(console, len(tasks))
    started = time.monotonic()
    try:
        with display:
            records = asyncio.run(_interruptible(Coordinator(tasks, display)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; broker and analysts have ended")
        return 130
    except (ReviewFailed, AgentBusError) as problem:
        console.print(f"failed: {problem}", highlight=False, markup=False)
        return 1
    return tell(console, records, time.monotonic() - started)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.stdlib_review", description=__doc__)
    parser.add_argument("--plain", action="store_true", help="lines instead of bars, as when piped")
    parser.add_argument("--limit", type=int, metavar="N", help="only N files, spread over the library")
    parser.add_argument("--library", type=Path, default=library_folder(), help="another folder to review")
    options = parser.parse_args(arguments)
    options.plain = options.plain or not sys.stdout.isatty()
    return options


async def _interruptible(coordinator: Coordinator) -> Records:
    with _cancelled_by(signal.SIGTERM):
        return await coordinator.run()


@contextlib.contextmanager
def _cancelled_by(number: signal.Signals) -> Iterator[None]:
    """Let a signal end this task as Ctrl-C does: in order."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


def tell(console: Console, records: Records, seconds: float) -> int:
    """Print the summary; return the exit code."""
    for table in tables(records):
        console.print()
        console.print(table)
    for task_id in records.redelivered_messages()[:10]:
        name, result = records.sent[task_id].name, records.results.get(task_id)
        reviewer = result.analyst if result else "nobody"
        console.print(f"\nredelivered: {name}, in the end reviewed by {reviewer}", highlight=False)
    console.print(f"\n{seconds:.1f} s in all", highlight=False)
    problems = records.problems()
    for problem in problems:
        console.print(f"wrong: {problem}", highlight=False, markup=False)
    console.print(records.closing_line(), highlight=False)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
