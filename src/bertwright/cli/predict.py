"""Print what `predict` answers, as it comes."""

from __future__ import annotations

import json
import sys

from rich.markup import escape

from bertwright.cli.tables import format_speed, remark
from bertwright.verbs.predict import STANDARD, PredictConfig, Predictions, predict

__all__ = ["call", "show"]


def call(config: PredictConfig) -> Predictions:
    """Predict; answers for standard output go there at once."""
    return predict(config, stream=sys.stdout if config.output == STANDARD else None)


def show(result: Predictions, *, as_json: bool = False) -> int:
    """Say on stderr how many texts were labelled and how fast."""
    for row in result.rows:
        print(json.dumps(row, ensure_ascii=False))
    if result.output != STANDARD:
        rate = format_speed(result.num_rows / max(result.seconds, 1e-9))
        remark(f"{result.num_rows:,} texts, {rate} texts/s, in [cyan]{escape(result.output)}[/]")
    return 0
