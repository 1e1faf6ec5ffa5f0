"""A record of what surgery did, as plain JSON, that can be replayed on the same starting model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertwright.errors import CheckpointError
from bertwright.registry import Choices
from bertwright.surgery.layers import keep_layers

__all__ = ["SURGERY_OPS", "SurgeryPlan", "apply_plan"]


@dataclass(frozen=True)
class _Op:
    keys: frozenset[str]
    check: Callable[[Mapping[str, Any]], bool]
    apply: Callable[[list[Any], Mapping[str, Any]], list[Any]]


def _is_index_list(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(item) is int and item >= 0 for item in value)
        and all(after > before for before, after in itertools.pairwise(value))
    )


SURGERY_OPS: Choices[_Op] = Choices(
    "surgery operation",
    {
        "keep_layers": _Op(
            keys=frozenset({"op", "indices"}),
            check=lambda op: _is_index_list(op["indices"]),
            apply=lambda layers, op: keep_layers(layers, op["indices"]),
        )
    },
)


@dataclass(frozen=True)
class SurgeryPlan:
    """The operations done so far, oldest first; each is a dict with its name under `op`."""

    ops: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for op in self.ops:
            name = op.get("op") if isinstance(op, Mapping) else None
            if not isinstance(name, str) or name not in SURGERY_OPS:
                raise CheckpointError(
                    f"unknown surgery operation {op!r}",
                    hint=f"this version knows: {', '.join(SURGERY_OPS)}",
                )
            kind = SURGERY_OPS[name]
            if set(op) != kind.keys or not kind.check(op):
                raise CheckpointError(f"the surgery operation {dict(op)!r} is malformed")

    def then_keep_layers(self, indices: Sequence[int]) -> SurgeryPlan:
        """Return this plan with one more operation: keep the layers at `indices`."""
        op = {"op": "keep_layers", "indices": [int(index) for index in indices]}
        return SurgeryPlan((*self.ops, op))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the plan as JSON values."""
        return [dict(op) for op in self.ops]

    @classmethod
    def from_json(cls, value: object) -> SurgeryPlan:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: an operation is unknown or malformed.
        """
        if not isinstance(value, list):
            raise CheckpointError(f"a surgery plan is a list of operations, not {value!r}")
        return cls(tuple(value))


def apply_plan(plan: SurgeryPlan, layers: Sequence[Any]) -> list[Any]:
    """Replay `plan` on the layers of the model that it started from.

    Raises:
        UsageError: an operation names a layer that is not there.
    """
    current = list(layers)
    for op in plan.ops:
        current = SURGERY_OPS[op["op"]].apply(current, op)
    return current
