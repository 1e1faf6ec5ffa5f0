"""Show what `multitask` did."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli.tables import remark, remark_trained
from bertwright.models.multi import head_names
from bertwright.verbs.common import TrainedResult

__all__ = ["show"]


def show(result: TrainedResult, *, as_json: bool = False) -> int:
    """Say on stderr what was trained, how well each head does, and what to do next."""
    remark_trained(result)
    run = escape(str(result.run_dir))
    for head in head_names(result.run_dir):
        remark(f"next: bertwright evaluate --model {run} --head {escape(head)} --data TEST")
    return 0
