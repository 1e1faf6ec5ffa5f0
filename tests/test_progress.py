from __future__ import annotations

import io

import pytest
from rich.console import Console

from bertwright import progress
from bertwright.progress import Progress, format_count, format_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (9.6, "0:10"), (95, "1:35"), (3725, "1:02:05"), (59.7, "1:00"), (-3, "0:00")],
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.14, "3.1"), (950, "950"), (9999, "9999"), (12345, "12.3k"), (4.5e6, "4.5M"), (2e9, "2.0G")],
)
def test_counts(value, text):
    assert format_count(value) == text


def test_without_a_terminal_a_line_at_most_every_quarter_minute(capsys, clock):
    with Progress("train", total=100, unit="steps", rate_unit="tokens") as bar:
        for _ in range(40):
            clock.now += 1
            bar.advance(1, rate=500)
            bar.note("loss [0.31]")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # at 16 and 32 seconds, and at the end
    assert lines[0] == "train: 16/100 steps, 500 tokens/s, 1:24 left, loss [0.31]"
    assert lines[-1] == "train: 40/100 steps, 500 tokens/s, 1:00 left, loss [0.31]"


def test_quick_work_says_nothing_without_a_terminal(capsys, clock):
    with Progress("read", unit="rows") as bar:
        clock.now += 2
        bar.advance(1000)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_an_unknown_total_shows_count_and_rate_only(capsys, clock):
    with Progress("read", unit="rows") as bar:
        clock.now += 20
        bar.advance(10000)
    assert capsys.readouterr().err == "read: 10,000 rows, 500 rows/s\n" * 2


def test_a_resumed_run_counts_its_own_rate_and_time(capsys, clock):
    with Progress("train", total=100, unit="steps", start=50) as bar:
        clock.now += 20
        bar.advance(10)
    line = capsys.readouterr().err.splitlines()[0]
    assert line == "train: 60/100 steps, 0.5 steps/s, 1:20 left"


def test_on_a_terminal_there_is_one_bar_with_rate_and_note(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "console", terminal)
    with Progress("tokenise", total=10, unit="rows") as outer:
        outer.advance(4)
        outer.note("[x]")
        with Progress("inside", total=2, unit="parts") as inner:
            inner.advance(2)
        outer.advance(6)
    shown = screen.getvalue()
    assert "tokenise" in shown and "10/10 rows" in shown and "rows/s" in shown
    assert "[x]" in shown and "inside" in shown
    assert "\n\n\n" not in shown


def test_an_error_inside_leaves_the_terminal_usable(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "console", terminal)
    with pytest.raises(KeyError), Progress("a", total=1):
        raise KeyError
    assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is shown again
    with Progress("b", total=1) as bar:
        bar.advance()
