"""Show what `distil` did."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli.tables import remark, remark_trained
from bertwright.verbs.common import TrainedResult

__all__ = ["show"]


def show(result: TrainedResult, *, as_json: bool = False) -> int:
    """Say on stderr what was trained, how well, and what to do next."""
    remark_trained(result)
    remark(f"next: bertwright evaluate --model {escape(str(result.run_dir))} --data TEST")
    return 0
