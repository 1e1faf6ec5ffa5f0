"""Scores of rankings: where the relevant candidates of a query come, best score first.

Equal scores have no order, so each statistic is its expected value over all orders of the tied
candidates: what a fair shuffle of them scores on average. The order in which candidates are given
never matters (up to rounding), and a model that scores all alike gets what chance gives, not the
full marks that a data set with the relevant candidate listed first would hand it.

Discounted gain is linear in the relevance, as in trec_eval and in scikit-learn's `ndcg_score`, not
2^relevance - 1; for relevance 0 and 1 the two are the same.

Legend: Q queries, D candidates of a query, G groups of candidates with equal scores.

Source: Jarvelin and Kekalainen 2002 (discounted gain); McSherry and Najork 2008 (ties).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["RANKING_METRICS", "ranking_metrics", "ranking_statistics"]

_GAIN_DEPTH = 10
_DEPTHS = np.array([1, 5, 10])

RANKING_METRICS = (
    "mrr",
    f"ndcg_at_{_GAIN_DEPTH}",
    *(f"recall_at_{depth}" for depth in _DEPTHS),
    *(f"hit_at_{depth}" for depth in _DEPTHS),
)


def ranking_statistics(
    scores: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    relevance: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
) -> np.ndarray:
    """Return the columns of `RANKING_METRICS` of each query, [Q, 8] float64.

    In order: 1 / rank of the first relevant candidate; discounted gain of the first 10 over that
    of the best order; share of the relevant candidates among the first 1, 5, 10; whether any is
    among the first 1, 5, 10. All are 0.0 for a query without a relevant candidate.

    Args:
        scores: Q lists of [D] finite scores, D as each query has it; high is relevant.
        relevance: Q lists of [D], 0 for a candidate that is not relevant, above 0 for one that
            is. All relevant candidates have to be listed: recall knows of no other.

    Raises:
        ValueError: different lengths, a score that is not finite, or a relevance that is not
            finite or below 0.
    """
    if len(scores) != len(relevance):
        raise ValueError(f"scores of {len(scores)} queries, relevance of {len(relevance)}")
    statistics = np.zeros((len(scores), len(RANKING_METRICS)))
    for query, (of_scores, of_relevance) in enumerate(zip(scores, relevance, strict=True)):
        a, b = (np.asarray(values, dtype=np.float64) for values in (of_scores, of_relevance))
        if a.shape != b.shape or a.ndim != 1:
            raise ValueError(f"query {query}: shapes {a.shape} and {b.shape}, want [D] twice")
        if not (np.isfinite(a).all() and np.isfinite(b).all() and (b >= 0).all()):
            raise ValueError(
                f"query {query}: scores are finite, relevance is finite and not below 0"
            )
        if b.any():
            statistics[query] = _of_query(a, b)
    return statistics


def ranking_metrics(statistics: np.ndarray) -> dict[str, float]:
    """Return the mean over queries of each of `RANKING_METRICS`.

    A query without a relevant candidate counts, with 0.0 (trec_eval leaves such queries out).

    Args:
        statistics: [Q, 8] from `ranking_statistics`.

    Raises:
        ValueError: there are no queries.
    """
    if not len(statistics):
        raise ValueError("there are no queries to score")
    return dict(zip(RANKING_METRICS, statistics.mean(axis=0).tolist(), strict=True))


def _of_query(scores: np.ndarray, relevance: np.ndarray) -> list[float]:
    order = np.argsort(-scores, kind="stable")
    scores, relevance = scores[order], relevance[order]
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    sizes = np.diff(starts, append=len(scores))
    relevant = np.add.reduceat((relevance > 0).astype(np.float64), starts)
    first = int(np.flatnonzero(relevant)[0])
    reciprocal, hits = _first_relevant(int(starts[first]), int(sizes[first]), relevant[first])
    gains = np.repeat(np.add.reduceat(relevance, starts) / sizes, sizes)
    return [
        reciprocal,
        min(1.0, _discounted(gains) / _discounted(np.sort(relevance)[::-1])),
        *_recalls(starts, sizes, relevant),
        *hits,
    ]


def _first_relevant(before: int, size: int, relevant: float) -> tuple[float, np.ndarray]:
    """Return the expected 1 / rank of the first relevant candidate, and its chance per depth.

    The first group that has any is drawn in random order: after `drawn` candidates that are not
    relevant, the next one is with chance relevant / (size - drawn).

    Args:
        before: number of candidates ranked above the group, none of them relevant.
        size: number of candidates in the group.
        relevant: how many of them are relevant, at least 1.
    """
    drawn = np.arange(size)
    chance = relevant / (size - drawn)
    none_yet = np.concatenate([[1.0], np.cumprod(np.maximum(1 - chance, 0))])
    reciprocal = none_yet[:-1] * np.minimum(chance, 1) / (before + 1 + drawn)
    return float(reciprocal.sum()), 1 - none_yet[np.clip(_DEPTHS - before, 0, size)]


def _recalls(starts: np.ndarray, sizes: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return the expected recall at each depth from groups [G]: where they start, how large."""
    within = np.clip(_DEPTHS[:, None] - starts, 0, sizes) / sizes
    return within @ relevant / relevant.sum()


def _discounted(gains: np.ndarray) -> float:
    gains = gains[:_GAIN_DEPTH]
    return float(gains @ (1 / np.log2(np.arange(2, len(gains) + 2))))
