"""Show what `shorten` promises, and what it measured."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli.tables import remark
from bertwright.verbs.shorten import ShortenResult

__all__ = ["show"]


def show(result: ShortenResult, *, as_json: bool = False) -> int:
    """Say on stderr what is left out, what is promised, and what the test rows showed."""
    out, source = (escape(str(place)) for place in (result.out, result.source))
    found, drop = result.calibration, result.drop
    promise = f"{result.promised_agreement:g} agreement at {100 * result.confidence:g}% confidence"
    if drop is None and found is not None:
        remark(
            f"{promise} could not be shown on {found.num_rows:,} calibration rows with any share, "
            "so all tokens go on"
        )
    elif drop is not None:
        remark(
            f"after {drop.layer} of {result.num_layers} layers {drop.share:.0%} of a text's tokens "
            f"go on, {drop.least} at least"
        )
        if found is not None:
            kept = found.num_agreeing / found.num_rows
            remark(f"promised: {promise}; on {found.num_rows:,} calibration rows {kept:.4f}")
    if result.test is not None:
        test = result.test
        same = "" if test.agreement is None else f"agreement {test.agreement:.4f}, "
        remark(f"on {test.num_rows:,} other rows: {same}{test.tokens_left:.0%} of the tokens go on")
        remark(f"{test.primary}: {test.score_whole:.4f} whole, {test.score_shorter:.4f} shorter")
    remark(f"next: bertwright benchmark --target {source} --target {out} --data TEST")
    return 0
