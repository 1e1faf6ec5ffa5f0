"""Checking which of several like things (layers, heads, neurons) are kept, or in what order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bertwright.errors import UsageError

__all__ = ["check_kept", "check_order"]


def check_kept(kept: Sequence[int], count: int, what: str) -> tuple[int, ...]:
    """Return `kept` as a tuple after checking that it names some of `count` things, in order.

    Args:
        kept: numbers from 0, increasing.
        count: how many there are.
        what: one of them, for the message: head, neuron.

    Raises:
        UsageError: there are none, one is out of range, or they do not increase.
    """
    numbers = tuple(int(number) for number in kept)
    if not numbers:
        raise UsageError(f"no {what} would be left", hint=f"keep at least one {what}")
    outside = [number for number in numbers if not 0 <= number < count]
    if outside:
        raise UsageError(f"there is no {what} {outside[0]}", hint=f"there are 0 to {count - 1}")
    if any(after <= before for before, after in itertools.pairwise(numbers)):
        raise UsageError(
            f"{what}s are not in increasing order: {list(numbers[:8])}",
            hint=f"name each {what} once, in order",
        )
    return numbers


def check_order(order: Sequence[int], count: int, what: str) -> tuple[int, ...]:
    """Return `order` as a tuple after checking that it names each of `count` things once.

    Args:
        order: numbers from 0.
        count: how many there are.
        what: one of them, for the message: head, neuron.

    Raises:
        UsageError: one is missing, out of range or named twice.
    """
    numbers = tuple(int(number) for number in order)
    if sorted(numbers) != list(range(count)):
        raise UsageError(
            f"{list(numbers[:8])} does not name each of {count} {what}s once",
            hint=f"name 0 to {count - 1}, in any order",
        )
    return numbers
