"""Show what `benchmark` measured."""

from __future__ import annotations

from typing import Any

from bertwright.cli.tables import format_speed, print_json, print_rows, remark

__all__ = ["show"]

HEADERS = (
    "target",
    "engine",
    "texts/s",
    "± IQR",
    "tokens/s",
    "ratio",
    "p50 ms",
    "p95 ms",
    "MB",
    "peak MB",
    "load s",
)
SPARE = ("load s", "± IQR", "tokens/s", "p95 ms", "ratio")


def show(result: dict[str, Any], *, as_json: bool = False) -> int:
    """Print the measurements on stdout; `ratio` is throughput over that of the first target."""
    if as_json:
        print_json(result)
        return 0
    first = result["targets"][0]["throughput_texts_s"]
    rows = [
        (
            m["name"].partition("@")[0],
            f"{m['engine']} {m['precision']}",
            format_speed(m["throughput_texts_s"]),
            format_speed(m["throughput_spread_texts_s"]),
            format_speed(m["throughput_tokens_s"]),
            f"{m['throughput_texts_s'] / first:.2f}x",
            f"{m['latency_p50_ms']:.2f}",
            f"{m['latency_p95_ms']:.2f}",
            f"{m['size_mb']:.1f}",
            f"{m['peak_memory_mb']:,.0f}",
            f"{m['load_s']:.1f}",
        )
        for m in result["targets"]
    ]
    print_rows(HEADERS, rows, spare=SPARE)
    facts = result["machine"]
    remark(f"{result['num_texts']:,} texts; {facts['processor']}, {facts['cores']} cores")
    return 0
