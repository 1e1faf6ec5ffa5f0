"""Show what `cut` took out, and what that did to the score."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli.tables import remark
from bertwright.verbs.cut import CutResult

__all__ = ["show"]


def show(result: CutResult, *, as_json: bool = False) -> int:
    """Say on stderr which layers stayed, and both scores."""
    out = escape(str(result.out))
    kept = "+".join(map(str, result.kept))
    narrower = "".join(
        f", {count} {what} each"
        for what, count in (("heads", result.heads), ("neurons", result.neurons))
        if count is not None
    )
    remark(
        f"{result.layers_before} layers became {len(result.kept)} ({kept}){narrower}; "
        f"{result.size_mb_before:.1f} MB became {result.size_mb:.1f} MB, in [cyan]{out}[/]"
    )
    if result.dropped:
        went = ", ".join(f"{one.layer} ({one.figure:.4g})" for one in result.dropped)
        remark(f"taken out, in this order, with the figure that decided: {went}")
    if result.score_before is not None and result.score_after is not None:
        remark(
            f"{result.primary} on {result.num_check_rows:,} rows: "
            f"{result.score_before:.4f} before, {result.score_after:.4f} after"
        )
    remark(f"next: bertwright evaluate --model {out} --data TEST")
    return 0
