"""Show what `compress` found."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.text import Text

from bertwright.cli.tables import format_parameters, format_speed, print_rows, remark
from bertwright.evaluate.evaluate import as_judged
from bertwright.verbs.compress import CompressResult

__all__ = ["show"]

HEADERS = (
    "candidate",
    "layers",
    "parameters",
    "score",
    "95% interval",
    "kept",
    "texts/s",
    "speed-up",
    "p50 ms",
    "MB",
    "peak MB",
)
SPARE = ("peak MB", "layers", "parameters", "95% interval", "MB")


def show(result: CompressResult, *, as_json: bool = False) -> int:
    """Print the frontier on stdout, and what was chosen and why on stderr.

    Exit status 1 when no candidate meets the budget.
    """
    found = result.frontier
    best = set(found["frontier"]) | {found["chosen"]}
    candidates = sorted(map(as_judged, found["candidates"]), key=lambda c: -c["throughput_texts_s"])
    shown = [c for c in candidates if c["name"] in best]
    rows = [_row(candidate, found["chosen"]) for candidate in shown]
    rows.append(_row({**as_judged(found["baseline"]), "name": "baseline: pipeline"}, ""))
    print_rows(HEADERS, rows, spare=SPARE)
    remark(
        f"{len(candidates)} candidates measured; above are those that no other beats in both score "
        "and speed, and the baseline"
    )
    if result.met:
        remark(f"[bold green]chosen: {escape(found['chosen'])}[/]. {escape(found['reason'])}")
    else:
        remark("[bold yellow]no candidate meets the budget[/]")
        for missed in found["failed_constraints"]:
            remark(
                f"  {missed['constraint']}: asked {missed['limit']:g}, nearest "
                f"{missed['value']:.4g} (off by {missed['excess']:.1%})"
            )
        remark(f"nearest: {escape(found['chosen'])}. {escape(found['reason'])}")
    chosen = as_judged(result.chosen)
    if "search_kept" in chosen:
        remark(
            f"scores are of {chosen['num_rows']:,} rows that the search did not use: there it "
            f"keeps {chosen['kept']:.1%} (95%: {chosen['kept_low']:.1%} to "
            f"{chosen['kept_high']:.1%}) of the teacher's score, and {chosen['search_kept']:.1%} "
            f"on the {chosen['search_num_rows']:,} that it was chosen by"
        )
    remark(f"report: [cyan]{escape(str(result.report))}[/]")
    remark(f"next: bertwright predict --model {escape(str(result.run_dir))} --input FILE")
    return 0 if result.met else 1


def _row(candidate: dict[str, Any], chosen: str) -> list[str | Text]:
    mark = "* " if candidate["name"] == chosen else "  "
    parameters = candidate.get("parameters")
    cells = (
        f"{mark}{candidate['name']}",
        str(candidate.get("layers", "")),
        format_parameters(parameters) if parameters else "",
        f"{candidate['score']:.4f}",
        f"{candidate['score_low']:.3f}-{candidate['score_high']:.3f}",
        f"{candidate['kept']:.1%}" if "kept" in candidate else "",
        format_speed(candidate["throughput_texts_s"]),
        f"{candidate['speedup']:.1f}x",
        f"{candidate['latency_p50_ms']:.2f}",
        f"{candidate['size_mb']:.1f}",
        f"{candidate['peak_memory_mb']:,.0f}",
    )
    style = "bold green" if candidate["name"] == chosen else ""
    return [Text(cell, style=style) for cell in cells]
