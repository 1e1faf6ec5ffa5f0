"""Dropping whole layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

from bertwright.errors import UsageError

__all__ = ["check_layer_indices", "keep_layers"]

T = TypeVar("T")


def check_layer_indices(indices: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Return `indices` as a tuple after checking that they name layers in their order.

    Raises:
        UsageError: there are none, one is not in 0..num_layers-1, or they do not increase.
    """
    kept = tuple(int(index) for index in indices)
    if not kept:
        raise UsageError("no layer would be left", hint="keep at least one layer")
    outside = [index for index in kept if not 0 <= index < num_layers]
    if outside:
        raise UsageError(
            f"there is no layer {outside[0]}", hint=f"the model has layers 0 to {num_layers - 1}"
        )
    if any(after <= before for before, after in itertools.pairwise(kept)):
        raise UsageError(
            f"layers {list(kept)} are not in increasing order",
            hint="name each layer once, in order",
        )
    return kept


def keep_layers(layers: Sequence[T], indices: Sequence[int]) -> list[T]:
    """Return the layers at `indices` (0-based, increasing); `layers` is left as it is.

    Raises:
        UsageError: the indices are empty, out of range or not increasing.
    """
    return [layers[index] for index in check_layer_indices(indices, len(layers))]
