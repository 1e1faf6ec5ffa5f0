"""Show what `finetune` did."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli.tables import format_parameters, remark
from bertwright.progress import format_count, format_seconds
from bertwright.verbs.common import TrainedResult

__all__ = ["show"]


def show(result: TrainedResult, *, as_json: bool = False) -> int:
    """Say on stderr what was trained, how well, and what to do next."""
    others = ", ".join(
        f"{name} {value:.4f}" for name, value in result.metrics.items() if name != result.primary
    )
    if result.score is not None:
        remark(
            f"[green]{result.primary} {result.score:.4f}[/] on {result.num_eval_rows:,} rows"
            + (f" ({others})" if others else "")
        )
    plural = "" if result.num_layers == 1 else "s"
    remark(
        f"{result.num_layers} layer{plural}, {format_parameters(result.parameters)} parameters; "
        f"{result.steps:,} steps in {format_seconds(result.seconds)}, "
        f"{format_count(result.tokens_per_s)} tokens/s; {result.stopped}"
    )
    remark(f"model in [cyan]{escape(str(result.model_dir))}[/]")
    remark(f"next: bertwright evaluate --model {escape(str(result.run_dir))} --data TEST")
    remark(
        f"      bertwright compress --model {escape(str(result.run_dir))} --data TRAIN --out FOLDER"
    )
    return 0
