"""Progress on stderr, with rate and time left; plain lines where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

__all__ = ["Progress", "console", "format_count", "format_seconds"]

console = Console(stderr=True, highlight=False)

PLAIN_INTERVAL_S = 15.0
WIDE = 100
BAR_WIDTH = 24
SHORT_BAR_WIDTH = 8


def format_seconds(seconds: float) -> str:
    """Return 95 -> "1:35", 3725 -> "1:02:05"."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def format_count(value: float) -> str:
    """Return 950 -> "950", 12345 -> "12.3k", 4500000 -> "4.5M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.1f}{letter}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _unbroken() -> Column:
    return Column(no_wrap=True, overflow="ellipsis")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        amount = task.fields["amount"]
        if elapsed <= 0 or amount <= 0:
            return Text("")
        return Text(f"{format_count(amount / elapsed)} {task.fields['rate_unit']}/s", style="cyan")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        if task.finished:
            return Text(f"in {format_seconds(elapsed)}", style="green")
        done, total = task.completed - task.fields["before"], task.total
        if not total or done <= 0:
            return Text("")
        left = elapsed * (total - task.completed) / done
        return Text(f"{format_seconds(left)} left", style="yellow")


class Progress:
    """One bar on stderr.

    `total` is in `unit`s (None: unknown); the rate is of `rate_unit` (default: the same) and
    counts what `advance(..., rate=)` is given. `start` is what a resumed run had done before.
    """

    def __init__(
        self,
        label: str,
        *,
        total: float | None = None,
        unit: str = "items",
        rate_unit: str | None = None,
        start: float = 0,
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.rate_unit = rate_unit or unit
        self.done = start
        self._start = start
        self._amount = 0.0
        self._note = ""
        self._began = self._spoke = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        self._began = self._spoke = time.monotonic()
        if console.is_terminal:
            count = "{task.completed:,.0f}" + ("/{task.total:,.0f}" if self.total else "")
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False, table_column=_unbroken()),
                BarColumn(bar_width=BAR_WIDTH if console.width >= WIDE else SHORT_BAR_WIDTH),
                TextColumn(count + " {task.fields[unit]}", table_column=_unbroken()),
                _Rate(table_column=_unbroken()),
                _Left(table_column=_unbroken()),
                TextColumn(
                    "{task.fields[note]}", style="dim", markup=False, table_column=_unbroken()
                ),
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self.label,
                total=self.total,
                completed=self.done,  # type: ignore[arg-type]
                unit=self.unit,
                rate_unit=self.rate_unit,
                amount=0.0,
                note="",
                before=self._start,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif time.monotonic() - self._began > PLAIN_INTERVAL_S:
            self._speak()

    def advance(self, count: float = 1, *, rate: float | None = None) -> None:
        """Move on by `count` units, which were `rate` rate-units of work."""
        self.done += count
        self._amount += count if rate is None else rate
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, amount=self._amount)
        elif time.monotonic() - self._spoke > PLAIN_INTERVAL_S:
            self._speak()

    def note(self, text: str) -> None:
        """Show a short remark behind the bar (the loss, the best score)."""
        self._note = text
        if self._bar is not None:
            self._bar.update(self._task, note=text)

    def _speak(self) -> None:
        self._spoke = time.monotonic()
        elapsed = self._spoke - self._began
        of = f"/{self.total:,.0f}" if self.total else ""
        rate = f"{format_count(self._amount / elapsed)} {self.rate_unit}/s" if elapsed else ""
        left = ""
        if self.total and self.done > self._start:
            left_s = elapsed * (self.total - self.done) / (self.done - self._start)
            left = f", {format_seconds(left_s)} left"
        note = f", {self._note}" if self._note else ""
        line = f"{self.label}: {self.done:,.0f}{of} {self.unit}, {rate}{left}{note}"
        console.print(line, markup=False, soft_wrap=True)
