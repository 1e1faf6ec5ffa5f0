"""Referees: scikit-learn's ndcg_score, and the plain definitions over every order of ties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from bertwright.tasks.metrics.ranking import (
    RANKING_METRICS,
    ranking_metrics,
    ranking_statistics,
)


@st.composite
def queries(draw: st.DrawFn, max_size: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scores and the relevance of one query's candidates."""
    size = draw(st.integers(1, max_size))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = generator.integers(-2, 3, size) if ties else generator.permutation(size)
    relevance = draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 2.5]), min_size=size, max_size=size))
    return scores * 0.1, np.array(relevance)


def plain(relevance: list[float]) -> list[float]:
    """Return the statistics of candidates in the order given, from the definitions."""
    ranks = [rank for rank, value in enumerate(relevance, start=1) if value > 0]
    if not ranks:
        return [0.0] * 8

    def gain(values: list[float]) -> float:
        return sum(value / math.log2(rank + 1) for rank, value in enumerate(values[:10], start=1))

    return [
        1 / ranks[0],
        gain(relevance) / gain(sorted(relevance, reverse=True)),
        *(sum(rank <= depth for rank in ranks) / len(ranks) for depth in (1, 5, 10)),
        *(float(ranks[0] <= depth) for depth in (1, 5, 10)),
    ]


def over_every_order(scores: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Return the mean of `plain` over all orders of the candidates that respect the scores."""
    rows = []
    for order in itertools.permutations(range(len(scores))):
        ranked = [scores[i] for i in order]
        if ranked == sorted(ranked, reverse=True):
            rows.append(plain([float(relevance[i]) for i in order]))
    return np.mean(rows, axis=0)


@given(queries(max_size=25, ties=False))
@settings(max_examples=150, deadline=None)
def test_without_ties_it_is_the_plain_definition(query: tuple[np.ndarray, np.ndarray]) -> None:
    scores, relevance = query
    wanted = plain([float(relevance[i]) for i in np.argsort(-scores)])
    assert ranking_statistics([scores], [relevance])[0] == pytest.approx(wanted, abs=1e-12)


@given(queries(max_size=6, ties=True))
@settings(max_examples=80, deadline=None)
def test_with_ties_it_is_the_mean_over_every_order(query: tuple[np.ndarray, np.ndarray]) -> None:
    found = ranking_statistics([query[0]], [query[1]])[0]
    assert found == pytest.approx(over_every_order(*query), abs=1e-12)


@given(st.one_of(queries(max_size=30, ties=True), queries(max_size=30, ties=False)))
@settings(max_examples=150, deadline=None)
def test_discounted_gain_agrees_with_sklearn(query: tuple[np.ndarray, np.ndarray]) -> None:
    scores, relevance = query
    found = ranking_metrics(ranking_statistics([scores], [relevance]))["ndcg_at_10"]
    if len(scores) > 1:  # scikit-learn refuses a query with one candidate
        assert found == pytest.approx(ndcg_score([relevance], [scores], k=10), abs=1e-12)


@given(queries(max_size=12, ties=True), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_the_order_of_candidates_does_not_matter(query: tuple, random) -> None:
    scores, relevance = query
    order = list(range(len(scores)))
    random.shuffle(order)
    found = ranking_statistics([scores, scores[order]], [relevance, relevance[order]])
    assert found[0] == pytest.approx(found[1], abs=1e-12)
    assert ((found >= 0) & (found <= 1)).all()


@given(st.lists(queries(max_size=8, ties=True), min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_drawn_queries_score_as_if_judged_anew(drawn_queries: list, seed: int) -> None:
    scores, relevance = (list(side) for side in zip(*drawn_queries, strict=True))
    rows = np.random.default_rng(seed).integers(0, len(scores), size=len(scores) + 3)
    anew = ranking_statistics([scores[i] for i in rows], [relevance[i] for i in rows])
    drawn = ranking_statistics(scores, relevance)[rows]
    assert ranking_metrics(drawn) == ranking_metrics(anew)


def test_by_hand() -> None:
    # ranked: 0, 1, 0, 2: gain 1/log2(3) + 2/log2(5), at best 2 + 1/log2(3)
    statistics = ranking_statistics([[3.0, 0.1, 2.0, 0.5], [0.9]], [[0, 2, 1, 0], [1]])
    assert statistics.dtype == np.float64 and statistics.shape == (2, 8)
    gain = (1 / math.log2(3) + 2 / math.log2(5)) / (2 + 1 / math.log2(3))
    found = ranking_metrics(statistics)
    assert tuple(found) == RANKING_METRICS
    assert found == pytest.approx(
        {
            "mrr": (1 / 2 + 1) / 2,
            "ndcg_at_10": (gain + 1) / 2,
            "recall_at_1": 1 / 2,
            "recall_at_5": 1.0,
            "recall_at_10": 1.0,
            "hit_at_1": 1 / 2,
            "hit_at_5": 1.0,
            "hit_at_10": 1.0,
        }
    )


def test_depths_by_hand() -> None:
    relevance = [0.0] * 4 + [1.0] + [0.0] * 5 + [1.0]
    found = ranking_metrics(ranking_statistics([-np.arange(11.0)], [relevance]))
    assert (found["recall_at_1"], found["recall_at_5"], found["recall_at_10"]) == (0.0, 0.5, 0.5)
    assert (found["hit_at_1"], found["hit_at_5"], found["hit_at_10"]) == (0.0, 1.0, 1.0)
    assert found["mrr"] == pytest.approx(1 / 5)


def test_equal_scores_get_what_chance_gives() -> None:
    """A relevant candidate listed first among 100 of equal score is worth a shuffle's mean."""
    relevance = [1.0] + [0.0] * 99
    found = ranking_metrics(ranking_statistics([np.zeros(100)], [relevance]))
    assert found["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 101)) / 100)
    assert (found["recall_at_10"], found["hit_at_10"]) == pytest.approx((0.1, 0.1))
    generator = np.random.default_rng(0)
    many = np.zeros(3000), np.zeros(3000)
    many[1][:5] = 1
    shuffled = [plain(generator.permutation(many[1]).tolist()) for _ in range(400)]
    assert ranking_statistics(*([side] for side in many))[0] == pytest.approx(
        np.mean(shuffled, axis=0), abs=0.02
    )


def test_queries_without_a_relevant_or_any_candidate_score_zero() -> None:
    statistics = ranking_statistics([[1.0, 2.0], [], [1.0]], [[0, 0], [], [1]])
    assert not statistics[:2].any()
    assert ranking_metrics(statistics)["mrr"] == pytest.approx(1 / 3)


def test_a_wrong_definition_is_noticed() -> None:
    """The order given does not break ties: that rewards where the data has the right one."""
    scores, relevance = np.zeros(3), np.array([1.0, 0.0, 0.0])
    wanted = pytest.approx(over_every_order(scores, relevance), abs=1e-12)
    assert ranking_statistics([scores], [relevance])[0] == wanted
    assert np.array(plain(relevance.tolist())) != wanted
    graded = [0.0, 1.0, 2.0]
    exponential = plain([2**value - 1 for value in graded])
    found = ranking_statistics([[3.0, 2.0, 1.0]], [graded])[0]
    assert found == pytest.approx(plain(graded))
    assert found != pytest.approx(exponential)


def test_useless_input_is_refused() -> None:
    with pytest.raises(ValueError, match="scores of 1 queries, relevance of 2"):
        ranking_statistics([[1.0]], [[1], [0]])
    with pytest.raises(ValueError, match="query 1: shapes"):
        ranking_statistics([[1.0], [1.0]], [[1], [0, 1]])
    for scores, relevance in (
        ([math.nan], [1]),
        ([math.inf], [1]),
        ([1.0], [-1]),
        ([0.0], [math.nan]),
    ):
        with pytest.raises(ValueError, match="query 0: scores are finite"):
            ranking_statistics([scores], [relevance])
    with pytest.raises(ValueError, match="no queries"):
        ranking_metrics(np.zeros((0, 8)))
