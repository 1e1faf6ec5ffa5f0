"""Show what `exits` promises, and what it measured."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli.tables import remark
from bertwright.verbs.exits import ExitsResult

__all__ = ["show"]


def show(result: ExitsResult, *, as_json: bool = False) -> int:
    """Say on stderr what is promised and what the test rows showed."""
    out, source = (escape(str(place)) for place in (result.out, result.source))
    found = result.calibration
    promise = f"{result.promised_agreement:g} agreement at {100 * result.confidence:g}% confidence"
    if result.threshold is None:
        remark(
            f"{promise} could not be shown on {found.num_rows:,} calibration rows, so no text "
            f"leaves early; {result.rows_needed:,} rows are needed at least"
        )
    else:
        remark(
            f"promised: {promise}; on {found.num_rows:,} calibration rows {found.agreement:.4f}, "
            f"and {found.average_layers:.2f} of {result.num_layers} layers on average"
        )
    if result.test is not None:
        test = result.test
        went = ", ".join(f"{count:,} after {layers}" for layers, count in test.left_after.items())
        remark(
            f"on {test.num_rows:,} other rows: agreement {test.agreement:.4f}, "
            f"{test.average_layers:.2f} layers on average ({went})"
        )
        remark(f"{test.primary}: {test.score_whole:.4f} whole, {test.score_early:.4f} early")
    remark(f"next: bertwright benchmark --target {source} --target {out} --data TEST")
    return 0
