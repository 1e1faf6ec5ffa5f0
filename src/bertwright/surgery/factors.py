"""A table as the product of two thin ones, nearest to it where its rows weigh most.

Shapes: V rows (pieces), D columns, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bertwright.errors import UsageError

__all__ = ["factorise", "rank_for"]


def factorise(table: Tensor, rank: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return small [V, R] and projection [R, D] whose product is nearest to `table` [V, D].

    Nearest is the least sum over rows of weight times squared distance. The projection has
    orthonormal rows: the first right singular vectors of the table with its rows multiplied by
    sqrt(weight). `small` is the table times their transpose, which for weights above 0 is the same
    as taking the weights out of the left factor again, and is best for rows of weight 0 as well.

    Args:
        table: any floating type; the work is done in 64 bits.
        rank: R, 1 to min(V, D). At D the product is the table, but for rounding.
        weights: [V], 0 or more, not all 0; None: all rows weigh the same.

    Returns:
        Both in the table's type, on its device. The signs of the columns are arbitrary.

    Raises:
        UsageError: the rank is out of range, or the weights are no weights of these rows.

    Source: Eckart, Young 1936 (the nearest table of a rank); Chen et al. 2018, arXiv:1806.06950
    (weights).
    """
    largest = min(table.shape)
    if not 1 <= rank <= largest:
        raise UsageError(
            f"a table of {table.shape[0]} x {table.shape[1]} has no factors of rank {rank}",
            hint=f"choose a rank from 1 to {largest}",
        )
    _, directions = _energies(table, weights)
    projection = directions[:rank]
    small = table.detach().double() @ projection.T
    return small.to(table.dtype), projection.to(table.dtype)


def rank_for(table: Tensor, energy: float, weights: Tensor | None = None) -> int:
    """Return the smallest rank whose factors keep this share of the table's energy.

    Energy is the sum over rows of weight times squared length; the error of `factorise` is what is
    not kept of it.

    Args:
        table: [V, D].
        energy: share in (0, 1].
        weights: as for `factorise`.

    Raises:
        UsageError: the weights are no weights of these rows.
    """
    energies, _ = _energies(table, weights)
    kept = energies.cumsum(dim=0)
    enough = kept >= energy * kept[-1]
    return min(int(enough.int().argmax()) + 1, *table.shape)


def _energies(table: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the squared singular values [D], largest first, and their directions [D, D], in rows.

    They come from the [D, D] products of the columns: D is far smaller than V.
    """
    exact = table.detach().double()
    weighted = exact if weights is None else exact * _checked(weights, exact).unsqueeze(1)
    values, vectors = torch.linalg.eigh(exact.T @ weighted)
    return values.flip(0).clamp(min=0), vectors.T.flip(0)


def _checked(weights: Tensor, table: Tensor) -> Tensor:
    exact = weights.detach().to(table)
    if exact.shape != table.shape[:1]:
        raise UsageError(f"{tuple(exact.shape)} weights for {table.shape[0]} rows")
    if not bool(exact.isfinite().all()) or bool((exact < 0).any()) or not bool((exact > 0).any()):
        raise UsageError(
            "weights of rows must be finite, 0 or more, and not all 0",
            hint="count more texts, or leave the weights out",
        )
    return exact
