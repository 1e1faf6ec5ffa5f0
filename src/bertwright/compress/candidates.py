"""Which students to train: depths x methods x seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bertwright.errors import ConfigError

__all__ = ["STUDENT_METHODS", "StudentMethod", "StudentPlan", "plan_students", "sensible_depths"]

StudentMethod = Literal["theseus", "distil", "control"]
STUDENT_METHODS: tuple[StudentMethod, ...] = ("control", "distil", "theseus")


@dataclass(frozen=True, order=True)
class StudentPlan:
    """One student to train. Orders from cheap to dear: fewer layers first."""

    layers: int
    method: str
    seed: int

    @property
    def name(self) -> str:
        """`distil-3L`, or `distil-3L-s1` for another seed than the first."""
        return f"{self.method}-{self.layers}L" + (f"-s{self.seed}" if self.seed else "")


def sensible_depths(num_layers: int) -> tuple[int, ...]:
    """Return the divisors of the teacher's depth below it, deepest first (12 -> 6, 4, 3, 2, 1).

    Divisors let every method divide the teacher into equal groups of layers.
    """
    return tuple(d for d in range(num_layers - 1, 0, -1) if num_layers % d == 0)


def plan_students(
    num_layers: int,
    *,
    depths: Sequence[int] = (),
    methods: Sequence[str] = STUDENT_METHODS,
    seed: int = 0,
) -> list[StudentPlan]:
    """Return the students to train, cheap ones first.

    Raises:
        ConfigError: a depth is not below the teacher's, or Theseus cannot divide by it.
    """
    plans = []
    for depth in depths or sensible_depths(num_layers):
        if not 1 <= depth < num_layers:
            raise ConfigError(
                f"--depths {depth}: the teacher has {num_layers} layers",
                hint=f"choose from 1 to {num_layers - 1}",
            )
        if "theseus" in methods and num_layers % depth:
            raise ConfigError(
                f"--depths {depth}: BERT-of-Theseus replaces equal groups of layers, and "
                f"{num_layers} layers do not divide by {depth}",
                hint=f"choose from {', '.join(map(str, sensible_depths(num_layers)))}, or leave "
                "theseus out of --students",
            )
        plans += [StudentPlan(depth, method, seed) for method in methods]
    return sorted(set(plans))
