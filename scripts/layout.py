"""How tables and their figures are written."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown_table", "mean_of", "over_seeds"]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table: the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def over_seeds(shares: Sequence[float]) -> str:
    """Return `87.3 ± 0.4`: mean and sample standard deviation, in percent; a dash of none."""
    if not shares:
        return "–"
    mean = f"{100 * statistics.mean(shares):.1f}"
    return f"{mean} ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else mean


def mean_of(runs: Sequence[Mapping[str, Any]], key: str, form: str) -> str:
    """Return the mean of a figure over runs, or a dash of none."""
    return form.format(statistics.mean(run[key] for run in runs)) if runs else "–"
