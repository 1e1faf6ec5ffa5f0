"""Referees: double loops over tokens, and plain loops over windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.tasks.best_spans import Span, best_spans, merge_windows
from span_inputs import NAMES, encode, row_of, tokenizer_of


def pairs_by_loops(start, end, first, last, n_best, most):
    found = []
    for i in range(len(start)):
        for j in range(len(end)):
            if first[i] >= 0 and first[j] >= 0 and i <= j < i + most:
                found.append((-(start[i] + end[j]), i, j))
    return [(-score, first[i], last[j]) for score, i, j in sorted(found)][:n_best]


def logits_of(seed, length, levels, holes):
    """Draw logits with ties, and offsets with specials around the context and holes in it."""
    rng = np.random.default_rng(seed)
    start, end = rng.integers(0, levels, size=(2, length)).astype(np.float32) / 3
    context = np.zeros(length, dtype=bool)
    low, high = sorted(rng.integers(0, length + 1, size=2))
    context[low:high] = rng.random(high - low) >= holes
    place = 3 * np.arange(length, dtype=np.int32)
    return start, end, np.where(context, place, -1), np.where(context, place + 2, -1)


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 10_000),
    st.integers(1, 16),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([0.0, 0.3]),
    st.integers(1, 25),
    st.integers(1, 20),
)
def test_best_spans_are_those_of_a_double_loop(seed, length, levels, holes, n_best, most):
    given = logits_of(seed, length, levels, holes)
    found = best_spans(*given, n_best=n_best, max_answer_tokens=most)
    doubles = (given[0].astype(float), given[1].astype(float), *given[2:])
    assert found == pairs_by_loops(*doubles, n_best, most)
    assert all(type(value) in (float, int) for span in found for value in span)


def test_a_wrong_search_is_noticed():
    start, end = np.random.default_rng(0).normal(size=(2, 16))
    start[[0, 15]] = end[[0, 15]] = 9
    place = 3 * np.arange(16)
    context = ~np.isin(place, [0, 21, 45])
    first, last = np.where(context, place, -1), np.where(context, place + 2, -1)
    found = best_spans(start, end, first, last, n_best=20, max_answer_tokens=3)
    assert len(found) == 20 == len(set(found))
    assert found == pairs_by_loops(start, end, first, last, 20, 3)
    assert found != pairs_by_loops(start, end, first, last, 20, 4)
    assert found != pairs_by_loops(start, end, first, last, 19, 3)
    assert found != pairs_by_loops(end, start, first, last, 20, 3)
    assert found != pairs_by_loops(start, end, place, place + 2, 20, 3)


def test_spans_worked_out_by_hand():
    start = np.array([9.0, 1.0, 3.0, 0.0, 9.0])
    end = np.array([9.0, 0.0, 2.0, 2.0, 9.0])
    first, last = np.array([-1, 0, 4, 9, -1]), np.array([-1, 3, 8, 12, -1])
    found = best_spans(start, end, first, last, n_best=4)
    assert found == [(5.0, 4, 8), (5.0, 4, 12), (3.0, 0, 8), (3.0, 0, 12)]
    assert found[0] == Span(score=5.0, start=4, end=8)
    assert best_spans(start, end, first, last, n_best=9, max_answer_tokens=1) == [
        (5.0, 4, 8), (2.0, 9, 12), (1.0, 0, 3),
    ]  # fmt: skip
    assert len(best_spans(start, end, first, last)) == 6
    nowhere = np.full(5, -1)
    assert best_spans(start, end, nowhere, nowhere) == []


def test_logits_that_are_no_numbers_are_left_out():
    start, end = np.array([1.0, np.nan, -np.inf, 2.0]), np.array([1.0, 5.0, 0.0, np.nan])
    first, last = np.arange(4), np.arange(1, 5)
    assert best_spans(start, end, first, last) == [(6.0, 0, 2), (2.0, 0, 1), (1.0, 0, 3)]


def test_what_cannot_be_searched_is_refused():
    four, three = np.zeros(4), np.zeros(3)
    with pytest.raises(ValueError, match="shapes"):
        best_spans(four, four, three, three)
    with pytest.raises(ValueError, match="shapes"):
        best_spans(*[np.zeros((2, 2))] * 4)
    for wrong in ({"n_best": 0}, {"max_answer_tokens": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            best_spans(four, four, four, four, **wrong)
    with pytest.raises(ValueError, match="at least 1"):
        merge_windows([], [])
    with pytest.raises(ValueError, match="at least 1"):
        merge_windows([[]], [0.0], n_best=0)


def merged_by_loops(windows, nulls, n_best):
    best = {}
    for window in windows:
        for score, start, end in window:
            if (start, end) not in best or best[start, end] < score:
                best[start, end] = score
    spans = [(score, start, end) for (start, end), score in best.items()]
    spans.sort(key=lambda span: (-span[0], span[1], span[2]))
    spans = spans[:n_best]
    null = nulls[0]
    for score in nulls:
        null = score if score < null else null
    total = math.exp(null) + sum(math.exp(span[0]) for span in spans)
    shares = [math.exp(span[0]) / total for span in spans]
    return spans, shares, null, math.exp(null) / total, null - spans[0][0] if spans else 0.0


span_lists = st.lists(
    st.lists(
        st.tuples(
            st.integers(-8, 8).map(lambda score: score / 2), st.integers(0, 4), st.integers(5, 8)
        ),
        max_size=8,
    ),
    min_size=1,
    max_size=4,
)


def check_merge(merged, windows, nulls, n_best):
    spans, shares, null, null_share, difference = merged_by_loops(windows, nulls, n_best)
    assert merged.spans == spans
    assert merged.probabilities.tolist() == pytest.approx(shares)
    assert merged.null_score == null
    assert merged.null_probability == pytest.approx(null_share)
    assert merged.null_minus_best == pytest.approx(difference)
    assert merged.probabilities.sum() + merged.null_probability == pytest.approx(1)


@settings(deadline=None, max_examples=300)
@given(span_lists, st.integers(1, 12), st.randoms(use_true_random=False))
def test_windows_are_merged_as_plain_loops_do(windows, n_best, random):
    nulls = [random.randint(-8, 8) / 2 for _ in windows]
    check_merge(merge_windows(windows, nulls, n_best=n_best), windows, nulls, n_best)


def test_a_wrong_merge_is_noticed():
    windows, nulls = [[(2.0, 0, 5), (1.0, 3, 5)], [(3.0, 0, 5), (0.5, 1, 9)]], [4.0, 1.0]
    merged = merge_windows(windows, nulls)
    check_merge(merged, windows, nulls, 20)
    assert merged.spans == [(3.0, 0, 5), (1.0, 3, 5), (0.5, 1, 9)]
    assert (merged.null_score, merged.null_minus_best) == (1.0, -2.0)
    wrong = [
        merge_windows(windows, [max(nulls)]),
        merge_windows(windows[:1], nulls),
        merge_windows(windows, nulls, n_best=2),
        merged._replace(spans=sorted([span for window in windows for span in window])[::-1]),
        merged._replace(null_minus_best=-merged.null_minus_best),
    ]
    for other in wrong:
        with pytest.raises(AssertionError):
            check_merge(other, windows, nulls, 20)


def test_a_row_without_any_span_has_no_answer():
    merged = merge_windows([[], []], [3.0, 1.0])
    assert merged.spans == [] and len(merged.probabilities) == 0
    assert (merged.null_score, merged.null_probability, merged.null_minus_best) == (1.0, 1.0, 0.0)


def test_large_scores_do_not_overflow():
    merged = merge_windows([[(5000.0, 0, 1), (4999.0, 1, 2)]], np.array([-5000.0]))
    assert merged.probabilities.tolist() == pytest.approx(
        [1 / (1 + math.exp(-1)), 1 / (1 + math.e)]
    )
    assert merged.null_minus_best == -10_000.0


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_knows_gives_the_answer_back(name):
    """From rows to windows, perfect logits, spans of windows, and the row's answer."""
    context = "the film " * 12 + "was made in Zürich cafe\u0301 and " + "a dog " * 12
    start = context.index("Zürich")
    tokenizer = tokenizer_of(name)
    rows = [row_of(context, start, start + len("Zürich cafe\u0301")), row_of(context)]
    features = encode(tokenizer, rows, max_length=40, stride_tokens=16)
    fields, answers = features.fields, []
    for row in range(2):
        spans, nulls = [], []
        for window in np.flatnonzero(np.array(features.sources) == row):
            logits = np.zeros((2, len(features.input_ids[window])))
            logits[0, fields["start_positions"][window]] = 5
            logits[1, fields["end_positions"][window]] = 5
            offsets = fields["offset_start"][window], fields["offset_end"][window]
            spans.append(best_spans(*logits, *offsets))
            nulls.append(logits[:, fields["null_position"][window]].sum())
        assert len(nulls) > 2
        merged = merge_windows(spans, nulls)
        answers.append(merged.null_minus_best > 0 or context[slice(*merged.spans[0][1:])])
    assert answers == ["Zürich cafe\u0301", True]
