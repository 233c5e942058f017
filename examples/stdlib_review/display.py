"""What people see while the analysts work: moving bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Display(Protocol):
    """What the coordinator tells."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""

    def begun(self, analyst: str, name: str) -> None:
        """An analyst has begun with a file."""

    def reviewed(self, analyst: str, name: str) -> None:
        """A file has its review."""

    def ended(self, analyst: str, how: str, text: str) -> None:
        """An analyst will do no more: ``how`` in one word, ``text`` in a sentence."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BarDisplay:
    """A bar for the whole and one for each analyst, with the file it has before it."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", style="dim"),
            TimeElapsedColumn(),
            console=console,
        )
        self._total = total
        self._all = self._progress.add_task("all files", total=total, state="")
        self._rows: dict[str, TaskID] = {}

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def begun(self, analyst: str, name: str) -> None:
        self._progress.update(self._row(analyst), state=name[-40:])

    def reviewed(self, analyst: str, name: str) -> None:
        self._progress.advance(self._all)
        self._progress.advance(self._row(analyst))

    def ended(self, analyst: str, how: str, text: str) -> None:
        self.note(text)
        row = self._row(analyst)
        self._progress.update(row, state=how)
        self._progress.stop_task(row)

    def _row(self, analyst: str) -> TaskID:
        if analyst not in self._rows:
            self._rows[analyst] = self._progress.add_task(analyst, total=self._total, state="")
        return self._rows[analyst]

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class LineDisplay:
    """A line for each tenth of the work, for logs and pipes."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._by_analyst: Counter[str] = Counter()

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begun(self, analyst: str, name: str) -> None:
        """Not worth a line."""

    def reviewed(self, analyst: str, name: str) -> None:
        self._by_analyst[analyst] += 1
        done = self._by_analyst.total()
        if done * 10 // self._total > (done - 1) * 10 // self._total:
            each = ", ".join(f"{name} {count}" for name, count in sorted(self._by_analyst.items()))
            self.note(f"{done:>5} of {self._total} reviewed: {each}")

    def ended(self, analyst: str, how: str, text: str) -> None:
        self.note(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
