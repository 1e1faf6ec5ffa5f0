"""Show what `compare` measured."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from bertwright.cli.tables import format_speed, print_json, print_rows, remark
from bertwright.progress import format_seconds

__all__ = ["show"]

SPARE = ("peak MB", "MB", "95%")


def show(result: dict[str, Any], *, as_json: bool = False) -> int:
    """Print the contenders on stdout, the best score first; say on stderr where the page is."""
    if as_json:
        print_json(result)
        return 0 if result["contenders"] else 1
    ranked = sorted(result["contenders"], key=lambda one: -one["score"])
    rows = [
        (
            one["name"],
            f"{100 * one['score']:.1f}",
            f"{100 * one['score_low']:.1f} to {100 * one['score_high']:.1f}",
            format_seconds(one["train_s"]),
            format_speed(one["throughput_texts_s"]),
            f"{one['size_mb']:.1f}",
            f"{one['peak_memory_mb']:,.0f}",
        )
        for one in ranked
    ]
    primary = ranked[0]["primary"] if ranked else "score"
    headers = ("contender", primary, "95%", "trained in", "texts/s", "MB", "peak MB")
    print_rows(headers, rows, spare=SPARE)
    for name, reason in result["failed"].items():
        remark(f"[yellow]{escape(name)}[/] failed: {escape(reason)}")
    rows_of = result["rows"]
    remark(
        f"{rows_of['train']:,} rows to learn from, {rows_of['test']:,} to judge; "
        f"{result['threads']} threads"
    )
    remark(f"page: [cyan]{escape(result['page'])}[/]")
    return 0 if result["contenders"] else 1
