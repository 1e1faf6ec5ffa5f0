"""Repeat a run from its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from bertwright.config import config_from_dict, load_recipe
from bertwright.errors import ConfigError
from bertwright.verbs import VERBS

__all__ = ["EXAMPLES", "GROUPS", "RunConfig", "RunResult", "run"]

EXAMPLES = (
    ("again, into another folder", "runs/intents/recipe.yaml --out runs/intents-again"),
    ("carry a broken-off run on", "runs/intents --resume"),
)
GROUPS = {"What you give": ("recipe",), "Output": ("out", "resume")}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Do again what a recipe.yaml says. Every run writes one; it holds every value."""

    recipe: tyro.conf.Positional[str]
    """A recipe file, or the run folder that holds recipe.yaml."""
    out: str | None = None
    """Write here instead of to the recipe's own --out."""
    resume: bool = False
    """Carry on the recipe's run instead of starting it anew."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Which verb the recipe named, and what that verb returned."""

    verb: str
    result: Any


def run(config: RunConfig) -> RunResult:
    """Read the recipe, check all of it, and do what it says.

    Raises:
        ConfigError: the recipe cannot be read, or has an unknown or impossible value.
    """
    path = Path(config.recipe)
    if path.is_dir():
        path = path / "recipe.yaml"
    verb, values = load_recipe(path)
    entry = VERBS[verb]
    if verb == "run":
        raise ConfigError(f"{path}: a recipe cannot run another recipe")
    changed: dict[str, Any] = {"out": config.out} if config.out is not None else {}
    changed |= {"resume": True} if config.resume else {}
    built = config_from_dict(entry.config_type, values | changed, source=str(path))
    return RunResult(verb=verb, result=entry.function(built))
