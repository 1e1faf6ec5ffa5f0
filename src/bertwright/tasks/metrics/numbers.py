"""Scores of predicted numbers: how far off they are, and whether they rise together.

Legend: N rows.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["number_metrics", "number_statistics"]

_LARGEST = 1e150
"""Squares of numbers up to here, and sums of such squares, are finite."""


def number_statistics(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return the predicted and the true number of each row, [N, 2] float64.

    Args:
        predicted: [N] numbers, finite and at most 1e150 in size.
        gold: [N] numbers, finite and at most 1e150 in size, in the same unit.

    Raises:
        ValueError: not one number a row, different lengths, or a number that is not finite or
            is too large.
    """
    predicted, gold = (np.asarray(values, dtype=np.float64) for values in (predicted, gold))
    if predicted.shape != gold.shape or gold.ndim != 1:
        raise ValueError(f"want [N] twice, got {predicted.shape} and {gold.shape}")
    statistics = np.stack([predicted, gold], axis=1)
    broken = np.flatnonzero(~(np.abs(statistics) <= _LARGEST).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{len(broken)} rows hold a number that is not finite or beyond {_LARGEST}, "
            f"the first is row {broken[0]}"
        )
    return statistics


def number_metrics(statistics: np.ndarray) -> dict[str, float]:
    """Return `rmse`, `mae`, `pearson` and `spearman`.

    `rmse` and `mae` are in the unit of the numbers. `spearman` is the Pearson correlation of the
    ranks, where equal numbers share the mean of their ranks. A correlation with numbers that are
    all alike (one row included) is not defined and is 0.0 here.

    Args:
        statistics: [N, 2] from `number_statistics`.

    Raises:
        ValueError: there are no rows.
    """
    if not len(statistics):
        raise ValueError("there are no rows to score")
    predicted, gold = np.ascontiguousarray(statistics.T)
    errors = predicted - gold
    return {
        "rmse": math.sqrt(errors @ errors / len(errors)),
        "mae": float(np.abs(errors).mean()),
        "pearson": _correlation(predicted, gold),
        "spearman": _correlation(_ranks(predicted), _ranks(gold)),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = _centred(a), _centred(b)
    length = math.sqrt((a @ a) * (b @ b))
    return min(1.0, max(-1.0, float(a @ b) / length)) if length else 0.0


def _centred(values: np.ndarray) -> np.ndarray:
    """Return values [N] moved and scaled to mean 0 and range 1; exact zeros if all are alike."""
    above = values - values.min()
    spread = above.max()
    if not spread:
        return above
    shares = above / spread
    return shares - shares.mean()


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank from 0 of each value [N], ties sharing the mean of theirs."""
    order = np.argsort(values)
    in_order = values[order]
    starts = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]))
    sizes = np.diff(starts, append=len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + (sizes - 1) / 2, sizes)
    return ranks
