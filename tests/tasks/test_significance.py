"""Referees: scipy's binomial test, brute force over every resample, coverage by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from bertwright.tasks.significance import (
    bootstrap,
    bootstrap_interval,
    kept_interval,
    mcnemar_exact,
    paired_bootstrap_difference,
)


def _pair_with(only_a: int, only_b: int, both: int = 5, neither: int = 3):
    a = [1] * only_a + [0] * only_b + [1] * both + [0] * neither
    b = [0] * only_a + [1] * only_b + [1] * both + [0] * neither
    return np.array(a, dtype=bool), np.array(b, dtype=bool)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_agrees_with_scipy(only_a: int, only_b: int) -> None:
    result = mcnemar_exact(*_pair_with(only_a, only_b))
    assert (result.only_a, result.only_b) == (only_a, only_b)
    if only_a + only_b:
        assert result.p == pytest.approx(binomtest(only_a, only_a + only_b, 0.5).pvalue, rel=1e-9)
    else:
        assert result.p == 1.0


def test_mcnemar_by_hand_and_symmetric() -> None:
    # 1 against 5: 2 * (C(6,0) + C(6,1)) / 2^6 = 14/64
    assert mcnemar_exact(*_pair_with(1, 5)).p == 14 / 64
    assert mcnemar_exact(*_pair_with(5, 1)).p == 14 / 64
    # agreeing rows carry no evidence
    assert mcnemar_exact(*_pair_with(1, 5, both=4000)).p == 14 / 64


def test_mcnemar_of_many_rows_is_exact_where_floats_overflow() -> None:
    result = mcnemar_exact(*_pair_with(4000, 4200))
    assert result.p == pytest.approx(binomtest(4000, 8200, 0.5).pvalue, rel=1e-6)
    assert mcnemar_exact(*_pair_with(0, 5000)).p == 0.0


def test_mcnemar_holds_its_level() -> None:
    """Two equally good models are called different in at most 5% of samples."""
    generator = np.random.default_rng(1)
    called = 0
    for _ in range(400):
        a, b = generator.random((2, 200)) < 0.8
        called += mcnemar_exact(a, b).p < 0.05
    assert 0 < called / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_interval_agrees_with_brute_force_over_every_resample() -> None:
    values = np.array([0.0, 0.13, 0.35, 0.6, 1.0, 1.7])
    every = [np.mean(values[list(rows)]) for rows in itertools.product(range(6), repeat=6)]
    low, high = np.percentile(every, [2.5, 97.5])
    found = bootstrap_interval(values, num_resamples=40_000)
    assert found.score == pytest.approx(0.63)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
    wrong = np.percentile(every, [5, 95])
    assert (found.low, found.high) != pytest.approx(tuple(wrong), abs=0.01)


def test_kept_agrees_with_brute_force_over_every_resample() -> None:
    student = np.array([1, 0, 1, 1, 0, 1], dtype=float)
    teacher = np.array([1, 1, 1, 0, 1, 1], dtype=float)
    ratios = []
    for rows in itertools.product(range(6), repeat=6):
        below = teacher[list(rows)].sum()
        if below:
            ratios.append(student[list(rows)].sum() / below)
    low, high = np.percentile(ratios, [2.5, 97.5])
    found = kept_interval(student, teacher, num_resamples=60_000)
    assert found.score == pytest.approx(4 / 5)
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


def test_accuracy_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(2)
    truth, covered = 0.85, 0
    for trial in range(300):
        correct = generator.random(400) < truth
        interval = bootstrap_interval(correct, num_resamples=300, seed=trial)
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / 300 <= 0.985


def test_accuracy_interval_agrees_with_the_binomial_one() -> None:
    correct = np.arange(2000) < 1700
    interval = bootstrap_interval(correct)
    exact = binomtest(1700, 2000).proportion_ci(method="wilson")
    assert interval.low == pytest.approx(exact.low, abs=0.003)
    assert interval.high == pytest.approx(exact.high, abs=0.003)


def test_pairing_narrows_the_difference() -> None:
    generator = np.random.default_rng(3)
    a = generator.random(1000) < 0.7
    b = a ^ (generator.random(1000) < 0.03)
    paired = paired_bootstrap_difference(a, b)
    shuffled = paired_bootstrap_difference(a, generator.permutation(b))
    assert paired.score == pytest.approx(a.mean() - b.mean())
    assert paired.low <= paired.score <= paired.high
    assert (paired.high - paired.low) < 0.5 * (shuffled.high - shuffled.low)


def test_a_model_beside_itself_differs_by_nothing() -> None:
    correct = np.random.default_rng(0).random(50) < 0.5
    assert paired_bootstrap_difference(correct, correct) == (0.0, 0.0, 0.0)
    assert kept_interval(correct, correct) == (1.0, 1.0, 1.0)


def test_any_metric_with_sklearn_as_the_referee() -> None:
    generator = np.random.default_rng(4)
    labels = generator.integers(0, 3, 120)
    predictions = np.where(generator.random(120) < 0.7, labels, generator.integers(0, 3, 120))

    def macro_f1(labels, predictions):
        return float(f1_score(labels, predictions, average="macro"))

    found = bootstrap(macro_f1, labels, predictions, num_resamples=200, seed=5)
    rows = np.random.default_rng(5).integers(0, 120, size=(200, 120))
    values = [macro_f1(labels[i], predictions[i]) for i in rows]
    assert found.score == pytest.approx(macro_f1(labels, predictions))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert found.low < found.score < found.high


def test_general_and_fast_form_are_the_same() -> None:
    correct = np.random.default_rng(6).random(80) < 0.6
    fast = bootstrap_interval(correct, num_resamples=300, seed=7)
    assert fast == pytest.approx(
        bootstrap(lambda c: float(np.mean(c)), correct, num_resamples=300, seed=7)
    )


def test_chunks_do_not_change_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = np.random.default_rng(8).random(64) < 0.6
    whole = bootstrap_interval(correct, num_resamples=100, seed=1)
    monkeypatch.setattr("bertwright.tasks.significance._CHUNK_ELEMENTS", 64 * 7)
    assert bootstrap_interval(correct, num_resamples=100, seed=1) == whole
    assert bootstrap_interval(correct, num_resamples=100, seed=2) != whole


def test_useless_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        bootstrap_interval(np.array([]))
    with pytest.raises(ValueError, match="different lengths"):
        mcnemar_exact(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="teacher scores 0"):
        kept_interval(np.ones(3), np.zeros(3))
