"""Dropping whole layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from bertwright.surgery.kept import check_kept

__all__ = ["keep_layers"]

T = TypeVar("T")


def keep_layers(layers: Sequence[T], indices: Sequence[int]) -> list[T]:
    """Return the layers at `indices` (0-based, increasing); `layers` is left as it is.

    Raises:
        UsageError: the indices are empty, out of range or not increasing.
    """
    return [layers[index] for index in check_kept(indices, len(layers), "layer")]
