"""Show what `run` did, as the recipe's own verb shows it."""

from __future__ import annotations

import importlib

from bertwright.verbs.run import RunResult

__all__ = ["show"]


def show(result: RunResult, *, as_json: bool = False) -> int:
    """Hand the result to the verb that made it."""
    return importlib.import_module(f"bertwright.cli.{result.verb}").show(result.result)
