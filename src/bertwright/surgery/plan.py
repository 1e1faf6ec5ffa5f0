"""A record of what surgery did, as plain JSON, that can be replayed on the same starting model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertwright.errors import CheckpointError
from bertwright.registry import Choices

__all__ = ["SURGERY_OPS", "SurgeryPlan"]


@dataclass(frozen=True)
class _Op:
    keys: frozenset[str]
    check: Callable[[Mapping[str, Any]], bool]


def _is_index_list(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(item) is int and item >= 0 for item in value)
        and all(after > before for before, after in itertools.pairwise(value))
    )


def _is_order_in_a_layer(op: Mapping[str, Any]) -> bool:
    listed = op["indices"]
    inside = isinstance(listed, list) and all(type(item) is int for item in listed)
    whole = inside and len(listed) > 0 and sorted(listed) == list(range(len(listed)))
    return type(op["layer"]) is int and op["layer"] >= 0 and whole


def _is_in_a_layer(op: Mapping[str, Any]) -> bool:
    return type(op["layer"]) is int and op["layer"] >= 0 and _is_index_list(op["indices"])


def _has_factors(op: Mapping[str, Any]) -> bool:
    weights = op["weights"]
    return (type(op["rank"]) is int and op["rank"] > 0) and (
        weights is None
        or (isinstance(weights, list) and all(type(one) in (int, float) for one in weights))
    )


_OF_THE_WHOLE = _Op(
    keys=frozenset({"op", "indices"}), check=lambda op: _is_index_list(op["indices"])
)
_IN_A_LAYER = _Op(keys=frozenset({"op", "layer", "indices"}), check=_is_in_a_layer)
_ORDER = _Op(keys=frozenset({"op", "layer", "indices"}), check=_is_order_in_a_layer)
SURGERY_OPS: Choices[_Op] = Choices(
    "surgery operation",
    {
        "keep_layers": _OF_THE_WHOLE,
        "keep_pieces": _OF_THE_WHOLE,
        "keep_width": _OF_THE_WHOLE,
        "keep_heads": _IN_A_LAYER,
        "keep_neurons": _IN_A_LAYER,
        "order_heads": _ORDER,
        "order_neurons": _ORDER,
        "factor_embeddings": _Op(keys=frozenset({"op", "rank", "weights"}), check=_has_factors),
    },
)
"""Layers, heads, neurons, pieces and dimensions have the numbers that they had when it was done."""


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

    def then_narrow(
        self, heads: Mapping[int, Sequence[int]], neurons: Mapping[int, Sequence[int]]
    ) -> SurgeryPlan:
        """Return this plan with more operations: the heads and neurons that layers keep."""
        return self._in_layers({"keep_heads": heads, "keep_neurons": neurons})

    def then_order(
        self, heads: Mapping[int, Sequence[int]], neurons: Mapping[int, Sequence[int]]
    ) -> SurgeryPlan:
        """Return this plan with more operations: the order that heads and neurons have now."""
        return self._in_layers({"order_heads": heads, "order_neurons": neurons})

    def _in_layers(self, wanted: Mapping[str, Mapping[int, Sequence[int]]]) -> SurgeryPlan:
        ops = tuple(
            {"op": op, "layer": int(layer), "indices": [int(index) for index in listed]}
            for op, by_layer in wanted.items()
            for layer, listed in sorted(by_layer.items())
        )
        return SurgeryPlan((*self.ops, *ops))

    def then_keep_pieces(self, kept: Sequence[int]) -> SurgeryPlan:
        """Return this plan with one more operation: the pieces of the vocabulary that stay."""
        op = {"op": "keep_pieces", "indices": [int(index) for index in kept]}
        return SurgeryPlan((*self.ops, op))

    def then_keep_width(self, kept: Sequence[int]) -> SurgeryPlan:
        """Return this plan with one more operation: the dimensions that the states keep."""
        op = {"op": "keep_width", "indices": [int(index) for index in kept]}
        return SurgeryPlan((*self.ops, op))

    def then_factor_embeddings(self, rank: int, weights: Sequence[float] | None) -> SurgeryPlan:
        """Return this plan with one more operation: word embeddings of two factors.

        Args:
            rank: of the factors.
            weights: of the pieces; None: all weigh the same.
        """
        listed = None if weights is None else [float(one) for one in weights]
        op = {"op": "factor_embeddings", "rank": int(rank), "weights": listed}
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
