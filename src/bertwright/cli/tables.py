"""Tables on stdout, and remarks on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bertwright.progress import format_count, format_seconds

if TYPE_CHECKING:
    from bertwright.verbs.common import TrainedResult

__all__ = [
    "format_parameters",
    "format_speed",
    "pairs_table",
    "print_json",
    "print_rows",
    "print_table",
    "remark",
    "remark_trained",
]

PLAIN_WIDTH = 160


def print_json(value: Any) -> None:
    """Print one JSON value on stdout, on one line."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def print_table(table: Table) -> None:
    """Print a table on stdout; not squeezed where there is no terminal to fit into."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    console.print(table)


def pairs_table(pairs: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for name, value in pairs:
        table.add_row(name, value)
    return table


def print_rows(
    headers: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    spare: Sequence[str] = (),
    first_wraps: bool = False,
) -> None:
    """Print a table on stdout; all columns but the first are aligned to the right.

    Args:
        headers: of the columns.
        rows: as many cells each.
        spare: columns that a narrow terminal does without, the first named first.
        first_wraps: whether the first column may take several lines.
    """
    console = Console()
    rows = list(rows)
    shown = list(headers)
    for header in (*spare, None):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for place, name in enumerate(shown):
            justify = "right" if place else "left"
            table.add_column(name, justify=justify, no_wrap=bool(place) or not first_wraps)
        for row in rows:
            cells = dict(zip(headers, row, strict=True))
            table.add_row(*(cells[name] for name in shown))
        width = Measurement.get(console, console.options.update(width=10_000), table).maximum
        if header is None or not console.is_terminal or width <= console.width:
            break
        shown.remove(header)
    print_table(table)


def remark(text: str) -> None:
    """Say something to the person, on stderr."""
    console = Console(stderr=True)
    console.print(text, highlight=False, soft_wrap=not console.is_terminal)


def remark_trained(result: TrainedResult) -> None:
    """Say what was trained and how well, and where it is."""
    others = ", ".join(
        f"{name} {value:.4f}" for name, value in result.metrics.items() if name != result.primary
    )
    if result.score is not None:
        remark(
            f"[green]{result.primary} {result.score:.4f}[/] on {result.num_eval_rows:,} rows"
            + (f" ({others})" if others else "")
        )
    plural = "" if result.num_layers == 1 else "s"
    steps = f"{result.steps:,} steps in " if result.steps else ""
    speed = f", {format_count(result.tokens_per_s)} tokens/s" if result.tokens_per_s else ""
    remark(
        f"{result.num_layers} layer{plural}, {format_parameters(result.parameters)} parameters; "
        f"{steps}{format_seconds(result.seconds)}{speed}; {result.stopped}"
    )
    remark(f"model in [cyan]{escape(str(result.model_dir))}[/]")


def format_speed(value: float) -> str:
    """Return 6.25 -> "6.2", 1234.5 -> "1,234"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def format_parameters(count: int) -> str:
    """Return 22713216 -> "22.7M"."""
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"
