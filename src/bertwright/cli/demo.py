"""Show how the demo ended."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli import compress
from bertwright.cli.tables import print_rows
from bertwright.verbs.demo import DemoResult

__all__ = ["show"]


def show(result: DemoResult, *, as_json: bool = False) -> int:
    """Print a few predictions and the frontier on stdout, and the choice on stderr."""
    rows = [
        (escape(row["text"]), escape(row["label"]), f"{row['score']:.2f}")
        for row in result.predictions
    ]
    print_rows(("what the chosen model says", "label", "probability"), rows, first_wraps=True)
    return compress.show(result.compressed)
