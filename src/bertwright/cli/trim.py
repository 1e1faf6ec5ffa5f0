"""Show what `trim` dropped and checked."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli.tables import remark
from bertwright.verbs.trim import TrimResult

__all__ = ["show"]


def show(result: TrimResult, *, as_json: bool = False) -> int:
    """Say on stderr what is gone, and what was compared."""
    out = escape(str(result.out))
    remark(
        f"{result.pieces_before:,} pieces became {result.pieces_after:,}; "
        f"{result.size_mb_before:.1f} MB became {result.size_mb:.1f} MB, in [cyan]{out}[/]"
    )
    remark(
        f"all {result.num_rows:,} rows ({result.num_tokens:,} tokens) are split as before, and "
        f"{result.num_scored:,} of them were scored by both models: equal bit for bit"
    )
    if result.changed_share is not None:
        remark(f"of the rows to check on, {result.changed_share:.1%} are split into other pieces")
    remark(f"next: bertwright evaluate --model {out} --data TEST")
    return 0
