"""How sure a score is, and whether two models differ: bootstrap intervals and the McNemar test.

All intervals are percentile bootstrap intervals over rows (Efron and Tibshirani, 1993, chapter
13); whatever compares two models resamples the rows of both together, because both saw the same
rows. A percentile interval of a model that got every row right (or every row wrong) has no width:
the bootstrap cannot see errors that the sample does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "Interval",
    "McNemar",
    "bootstrap",
    "bootstrap_interval",
    "kept_interval",
    "mcnemar_exact",
    "paired_bootstrap_difference",
    "paired_bootstrap_p",
]

_CHUNK_ELEMENTS = 4_000_000


class Interval(NamedTuple):
    """An estimate from all rows, and the ends of its confidence interval."""

    score: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Result of the exact McNemar test.

    `only_a` rows only model a got right, `only_b` rows only model b got right; `p` is two-sided.
    """

    p: float
    only_a: int
    only_b: int


def bootstrap(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of any statistic of rows.

    Args:
        statistic: called with the resampled arrays in the order given; returns one number. A NaN
            (the statistic is not defined on that resample) is left out.
        *arrays: [N, ...] each, row i of all of them belongs to example i (so resampling is paired).
        num_resamples: how many times N rows are drawn with replacement.
        confidence: share of the resampled statistics inside the interval.
        seed: of the random rows.

    Raises:
        ValueError: no rows, arrays of different lengths, or the statistic is nowhere defined.
    """
    num_rows = _num_rows(arrays)
    values = [
        statistic(*(array[rows] for array in arrays))
        for chunk in _resampled_rows(num_rows, num_resamples, seed)
        for rows in chunk
    ]
    return _interval(statistic(*arrays), np.asarray(values, dtype=float), confidence)


def bootstrap_interval(
    correct: np.ndarray,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of a per-row score with its percentile bootstrap interval.

    Args:
        correct: [N] bool (right or wrong: the mean is the accuracy) or float.
        num_resamples: how many times N rows are drawn with replacement.
        confidence: share of the resampled means inside the interval.
        seed: of the random rows.

    Raises:
        ValueError: there are no rows.
    """
    correct = np.asarray(correct, dtype=float)
    num_rows = _num_rows((correct,))
    means = [
        correct[chunk].mean(axis=1) for chunk in _resampled_rows(num_rows, num_resamples, seed)
    ]
    return _interval(float(correct.mean()), np.concatenate(means), confidence)


def paired_bootstrap_difference(
    correct_a: np.ndarray,
    correct_b: np.ndarray,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return mean(a) - mean(b) with its paired percentile bootstrap interval.

    Args:
        correct_a: [N] bool or float, one score a row.
        correct_b: [N] the same rows, scored for the other model.
        num_resamples: how many times N rows are drawn with replacement.
        confidence: share of the resampled differences inside the interval.
        seed: of the random rows.

    Raises:
        ValueError: no rows, or different numbers of rows.
    """
    a, b = _pair(correct_a, correct_b)
    return bootstrap_interval(a - b, num_resamples=num_resamples, confidence=confidence, seed=seed)


def kept_interval(
    correct_s: np.ndarray,
    correct_t: np.ndarray,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the share of the teacher's score that the student keeps, with its paired interval.

    The statistic is mean(student) / mean(teacher) over the same resampled rows; resamples on which
    the teacher scores nothing are left out.

    Args:
        correct_s: [N] bool or float, the student's score on each row.
        correct_t: [N] the teacher's score on the same rows.
        num_resamples: how many times N rows are drawn with replacement.
        confidence: share of the resampled ratios inside the interval.
        seed: of the random rows.

    Raises:
        ValueError: no rows, different numbers of rows, or a teacher that scores 0 on all rows.
    """
    student, teacher = _pair(correct_s, correct_t)
    if teacher.mean() == 0:
        raise ValueError("the teacher scores 0 on these rows: the share kept is not defined")
    ratios = []
    for chunk in _resampled_rows(len(student), num_resamples, seed):
        below = teacher[chunk].mean(axis=1)
        above = student[chunk].mean(axis=1)
        ratios.append(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0))
    return _interval(float(student.mean() / teacher.mean()), np.concatenate(ratios), confidence)


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Test whether two models err equally often on the same rows (McNemar 1947, exact form).

    Under the null hypothesis a row that exactly one model got right is equally likely to be
    either's, so `only_a` follows Binomial(only_a + only_b, 1/2). The two-sided p is twice the
    smaller tail, at most 1, summed in exact integers. No such row gives p = 1.

    Args:
        correct_a: [N] bool, whether model a got the row right.
        correct_b: [N] bool, the same rows for model b.

    Raises:
        ValueError: no rows, or different numbers of rows.
    """
    a, b = (array.astype(bool) for array in _pair(correct_a, correct_b))
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    total = only_a + only_b
    term = tail = 1
    for successes in range(min(only_a, only_b)):
        term = term * (total - successes) // (successes + 1)
        tail += term
    return McNemar(p=min(1.0, 2 * tail / 2**total), only_a=only_a, only_b=only_b)


def paired_bootstrap_p(
    statistic: Callable[..., float],
    rows_a: np.ndarray,
    rows_b: np.ndarray,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> float:
    """Return the two-sided p of "a and b score alike", by the paired bootstrap.

    It is twice the smaller share of resamples on which the difference is not on one side of zero,
    each share with one added to both counts (so that it is never 0), and at most 1.

    Args:
        statistic: a score of rows.
        rows_a: [N, ...] what model a's rows add to the score.
        rows_b: [N, ...] the same rows for model b.
        num_resamples: how many times N rows are drawn with replacement.
        seed: of the random rows.

    Raises:
        ValueError: no rows, or different numbers of rows.

    Source: Efron and Tibshirani 1993, chapter 15; the added one: Davison and Hinkley 1997, 4.2.
    """
    num_rows = _num_rows((rows_a, rows_b))
    above = below = 0
    for chunk in _resampled_rows(num_rows, num_resamples, seed):
        for rows in chunk:
            difference = statistic(rows_a[rows]) - statistic(rows_b[rows])
            above += difference >= 0
            below += difference <= 0
    return min(1.0, 2 * (min(above, below) + 1) / (num_resamples + 1))


def _num_rows(arrays: tuple[Any, ...]) -> int:
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(f"arrays of different lengths: {sorted(lengths)}")
    (num_rows,) = lengths
    if num_rows == 0:
        raise ValueError("there are no rows to resample")
    return num_rows


def _pair(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(correct_a, dtype=float), np.asarray(correct_b, dtype=float)
    _num_rows((a, b))
    return a, b


def _resampled_rows(num_rows: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield int arrays [at most chunk, num_rows] of row numbers, `num_resamples` rows in all."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // num_rows)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        yield generator.integers(0, num_rows, size=(size, num_rows))


def _interval(score: float, values: np.ndarray, confidence: float) -> Interval:
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("the statistic is not defined on any resample")
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(score=float(score), low=float(low), high=float(high))
