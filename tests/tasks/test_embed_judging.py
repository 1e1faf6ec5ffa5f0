"""How vectors are judged: correlations and ranks against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import ndcg_score

from bertwright.tasks import embed as embed_module
from embed_inputs import (
    ALONE,
    LABELLED,
    ROWS,
    SCORED,
    TASK,
    TRIPLETS,
    dot,
    encode,
    unit,
)


@settings(deadline=None, max_examples=15)
@given(st.integers(3, 40), st.integers(0, 1000))
def test_similarity_is_scipys_correlation(count, seed):
    rng = np.random.default_rng(seed)
    rows = [
        {"text": f"a {i}", "text_b": f"b {i}", "score": float(score)}
        for i, score in enumerate(rng.integers(0, 4, count))
    ]
    rows[0]["score"] = 9.0
    encoded = encode(rows)
    vectors = unit(rng, len(encoded), 3).astype(np.float32)
    cosines = [dot(vectors[2 * i].tolist(), vectors[2 * i + 1].tolist()) for i in range(count)]
    scores = [row["score"] for row in rows]
    task = TASK.judging(encoded)
    statistics = task.judge(vectors, encoded, {})
    np.testing.assert_allclose(statistics, np.stack([cosines, scores], axis=1), atol=1e-6)
    found = task.metrics(statistics)
    assert found["spearman"] == pytest.approx(stats.spearmanr(cosines, scores)[0], abs=1e-9)
    assert found["pearson"] == pytest.approx(stats.pearsonr(cosines, scores)[0], abs=1e-6)
    assert task.row_scores(statistics) is None


def ranked_by_hand(query, candidates, relevant):
    """Statistics of one query in loops; candidates: vectors by name, all cosines differ."""
    order = sorted(candidates, key=lambda name: -dot(query, candidates[name]))
    ranks = [rank for rank, name in enumerate(order) if name in relevant]
    if not ranks:
        return [0.0] * 8
    gains = [[float(name in relevant) for name in order]]
    scores = [[float(-rank) for rank in range(len(order))]]
    return [
        1 / (1 + ranks[0]),
        ndcg_score(gains, scores, k=10) if len(order) > 1 else 1.0,
        *(sum(rank < depth for rank in ranks) / len(ranks) for depth in (1, 5, 10)),
        *(float(ranks[0] < depth) for depth in (1, 5, 10)),
    ]


def word_vectors(rng, encoded):
    """One vector a text, the same wherever it stands, as [F,E] and by its number."""
    ids = encoded.field("text_ids", np.arange(len(encoded))).tolist()
    table = {number: unit(rng, 4) for number in sorted(set(ids))}
    return np.stack([table[number] for number in ids]), ids, table


@settings(deadline=None, max_examples=40)
@given(ROWS, st.integers(0, 1000))
@example([(0, 1), (1, 2), (0, 3)], 0)  # a first text that is a second one elsewhere
@example([(0, 0), (0, 1), (2, 0)], 0)
@example([(0, 1, 2), (3, 2, 0)], 0)
def test_ranks_of_second_texts_are_those_of_loops(rows, seed):
    names = ("text", "text_b", "negative")
    source = [{n: f"{text}" for n, text in zip(names, row, strict=False)} for row in rows]
    encoded = encode(source)
    vectors, ids, table = word_vectors(np.random.default_rng(seed), encoded)
    width = len(rows[0])
    firsts, seconds = ids[::width], ids[1::width]
    pool = {ids[i] for i in range(len(ids)) if i % width}
    expected = []
    for first in firsts:
        relevant = {s for f, s in zip(firsts, seconds, strict=True) if f == first}
        kept = {n: table[n].tolist() for n in pool if n != first or first in relevant}
        expected.append(ranked_by_hand(table[first].tolist(), kept, relevant))
    statistics = TASK.judge(vectors, encoded, {})
    np.testing.assert_allclose(statistics, expected, atol=1e-9)
    scores = TASK.row_scores(statistics)
    assert scores.mean() == pytest.approx(TASK.metrics(statistics)["mrr"])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.integers(0, 1000))
def test_ranks_of_labels_are_those_of_loops(groups, seed):
    encoded = encode([{"text": f"a {i}", "label": f"l{g}"} for i, g in enumerate(groups)])
    vectors, *_ = word_vectors(np.random.default_rng(seed), encoded)
    expected = []
    for i, group in enumerate(groups):
        others = {j: vectors[j].tolist() for j in range(len(groups)) if j != i}
        relevant = {j for j in others if groups[j] == group}
        expected.append(ranked_by_hand(vectors[i].tolist(), others, relevant))
    np.testing.assert_allclose(TASK.judge(vectors, encoded, {}), expected, atol=1e-9)


@pytest.mark.parametrize("labelled", [False, True])
def test_many_queries_are_judged_as_few(labelled, monkeypatch):
    rng = np.random.default_rng(4)
    if labelled:
        rows = [{"text": f"a {i}", "label": f"{rng.integers(30)}"} for i in range(600)]
    else:
        rows = [{"text": f"a {rng.integers(400)}", "text_b": f"b {i % 450}"} for i in range(600)]
    encoded = encode(rows)
    vectors, *_ = word_vectors(rng, encoded)
    found = TASK.judge(vectors, encoded, {})
    assert found.shape == (600, 8) and 0 < found[:, 0].mean() < 1
    for size in (10_000, 7, 599):
        monkeypatch.setattr(embed_module, "QUERIES_AT_ONCE", size)
        np.testing.assert_allclose(TASK.judge(vectors, encoded, {}), found, atol=1e-9)


def test_some_rows_of_another_order_are_judged_as_they_are():
    encoded = encode(SCORED)
    vectors = unit(np.random.default_rng(5), 6, 4)
    order = np.array([4, 5, 0, 1])
    part = TASK.judge(vectors[order], encoded.select(order), {})
    assert part.tolist() == TASK.judge(vectors, encoded, {})[[2, 0]].tolist()
    assert TASK.describe_truth(encoded.select(order)) == ["2", "5"]


def test_the_truth_in_words():
    assert TASK.describe_truth(encode(SCORED)) == ["5", "0", "2"]
    assert TASK.describe_truth(encode(TRIPLETS)) == ["the film", "the film", "the dog"]
    assert TASK.describe_truth(encode(LABELLED)) == ["True", "False", "True"]
    assert TASK.describe_truth(encode(ALONE)) == ["", "", ""]
