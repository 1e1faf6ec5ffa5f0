"""Show what `evaluate` found."""

from __future__ import annotations

from typing import Any

from bertwright.cli.tables import format_speed, pairs_table, print_json, print_table

__all__ = ["show"]


def show(result: dict[str, Any], *, as_json: bool = False) -> int:
    """Print the evaluation on stdout, as one JSON object or as a table."""
    if as_json:
        print_json(result)
        return 0
    primary = result["primary"]
    pairs = [
        (
            primary,
            f"[bold]{result['score']:.4f}[/]  "
            f"(95% interval {result['score_low']:.4f} to {result['score_high']:.4f}, "
            f"{result['num_rows']:,} rows)",
        )
    ]
    pairs += [(name, f"{v:.4f}") for name, v in result["metrics"].items() if name != primary]
    pairs += [
        ("engine", f"{result['engine']}, {result['precision']}"),
        (
            "throughput",
            f"{format_speed(result['throughput_texts_s'])} texts/s, "
            f"{format_speed(result['throughput_tokens_s'])} tokens/s",
        ),
        (
            "latency, one text",
            f"{result['latency_p50_ms']:.2f} ms (p50), {result['latency_p95_ms']:.2f} ms (p95)",
        ),
        ("size on disk", f"{result['size_mb']:.1f} MB"),
        ("peak memory", f"{result['peak_memory_mb']:,.0f} MB"),
    ]
    print_table(pairs_table(pairs))
    return 0
