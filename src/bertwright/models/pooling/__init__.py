"""From token states to one vector a text: `pool(hidden[B,L,D], attention_mask[B,L]) -> [B,D]`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bertwright.models.pooling.cls import pool_first, pool_last
from bertwright.models.pooling.mean import pool_mean
from bertwright.registry import Choices

__all__ = ["POOLINGS", "Pooling", "get_pooling", "pool_first", "pool_last", "pool_mean"]

Pooling = Callable[[Tensor, Tensor], Tensor]

POOLINGS: Choices[Pooling] = Choices("pooling", {"cls": pool_first, "mean": pool_mean})


def get_pooling(name: str, *, cls_at_end: bool = False) -> Pooling:
    """Return the pooling of this name.

    Args:
        name: a key of `POOLINGS`.
        cls_at_end: the family's classification token is the last one (XLNet).

    Raises:
        UnknownChoiceError: there is no such pooling.
    """
    pooling = POOLINGS[name]
    return pool_last if cls_at_end and name == "cls" else pooling
